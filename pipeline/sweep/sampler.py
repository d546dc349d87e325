"""Which values to try next: Optuna's samplers as a pure function of the seed, the number of the draw and the results.

Nothing is remembered between two draws, so a sweep that was killed goes on as if it had not been: its history is in the
folders of its trials.
"""

import itertools
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.sweep.config import SearchConfig
from pipeline.sweep.space import Choices, Dimension, Space, Values, grid

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What became of a configuration that was tried."""

    values: Values
    state: Literal["running", "finished", "pruned", "failed"]
    objectives: tuple[float, ...] = ()
    """Its results, if it has finished: one number for each objective, small is good."""
    reached: dict[int, float] | None = None
    """Validation bits per byte by step, if it was stopped early."""


def draw(space: Space, search: SearchConfig, number: int, history: list[Seen]) -> Values | None:
    """The values of draw `number` (from 0); None where a grid has no more."""
    if search.algorithm == "grid":
        return next(itertools.islice(grid(space), number, None), None)
    seed = zlib.crc32(f"{search.seed} {number}".encode())
    study = study_of(space, search, history, seed=seed, objectives=len(search.objectives))
    trial = study.ask({dimension.field: distribution(dimension) for dimension in space})
    return {dimension.field: trial.params[dimension.field] for dimension in space}


def study_of(space: Space, search: SearchConfig, history: list[Seen], *, seed: int, objectives: int) -> "Study":
    """An Optuna study of so many objectives that holds the history, in memory."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if search.algorithm == "random":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            # As many random configurations first as Optuna would take, but in a short sweep no more than a third.
            first = min(10, max(3, (search.trials or DEFAULT_TRIALS) // 3))
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=first, multivariate=True, constant_liar=True
            )
        small = optuna.study.StudyDirection.MINIMIZE
        study = optuna.create_study(directions=[small] * objectives, sampler=sampler)
        for seen in history:
            study.add_trial(_frozen(space, seen, single=objectives == 1))
    return study


DEFAULT_TRIALS = 16


def distribution(dimension: Dimension) -> "BaseDistribution":
    """The dimension as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _frozen(space: Space, seen: Seen, *, single: bool) -> "FrozenTrial":
    from optuna.trial import TrialState, create_trial

    reached = seen.reached if seen.state == "pruned" and single else None
    states = {
        "running": TrialState.RUNNING,
        "finished": TrialState.COMPLETE,
        # What a trial was worth that was stopped early, Optuna understands for one objective only.
        "pruned": TrialState.PRUNED if single else TrialState.FAIL,
        "failed": TrialState.FAIL,
    }
    return create_trial(
        state=states[seen.state],
        values=list(seen.objectives) if seen.state == "finished" else None,
        params=dict(seen.values),
        distributions={dimension.field: distribution(dimension) for dimension in space},
        intermediate_values=reached,
    )
