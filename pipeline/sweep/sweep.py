"""A sweep: its folder, its trials, and which one comes next. All of it is in files, so that any start can go on.

runs/SWEEP/
    sweep.json      preset, command, search and every option that the trials have in common
    skipped.json    draws that were no valid configuration, and why
    SWEEP-01/ …     a trial: the folder of a run, and trial.json
    table.csv       the result, when it has ended
    plots/          bpb by field, parallel coordinates, Pareto front, learning curves, importance
    mlflow.json     the parent run
"""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

from h2q.errors import UserError
from pipeline.cli import options_of
from pipeline.config import PRESETS, RunConfig
from pipeline.runs.folder import RunFolder
from pipeline.storage.json_file import object_of, shape_of
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.configuration import Configuration
from pipeline.sweep.folder import SKIPPED
from pipeline.sweep.sampler import DEFAULT_TRIALS, Seen, draw
from pipeline.sweep.space import Space, Values, configure, parse_space, show, size
from pipeline.sweep.trial import Trial, read_trials, validations

_PATIENCE = 100
"""Draws in a row without a new configuration, after which the space is taken to hold no more."""


@dataclass(frozen=True)
class Skip:
    """A draw that was no configuration to try."""

    draw: int
    values: Values
    reason: str


class Wait(Exception):
    """No trial can be started before another one has ended."""


class Next(NamedTuple):
    """A trial to start."""

    configuration: int
    """From 1; a new one is one more than there are."""
    values: Values
    seed: int
    """From 0, beyond the run's own."""


class Plan(Protocol):
    """What is trained where values are not drawn from the space. As text: what that is."""

    @property
    def trials(self) -> int:
        """How many trials there will be."""
        ...

    @property
    def notes(self) -> dict[str, Any]:
        """Files that the sweep's folder holds for it, by name, as JSON."""
        ...

    def describe(self, values: Values) -> str:
        """What values these are, in a few words."""
        ...

    def next(self, sweep: "Sweep") -> Next | None:
        """What comes next, given all that there is; None behind the last. Raises: Wait."""
        ...


class Sweep:
    """The trials so far, and the next one."""

    def __init__(
        self,
        folder: RunFolder,
        config: SweepConfig,
        preset: str,
        check: Callable[[RunConfig], None],
        plan: Plan | None = None,
    ) -> None:
        """`folder` need not exist before the first trial starts. `check` raises UserError for a config that the corpus,
        or the machine, is too small for. `plan`: what to train; None: what the search draws from its space."""
        self.folder = folder
        self.config = config
        self.preset = preset
        self.space: Space = parse_space(config.search.space)
        self._check, self.plan = check, plan
        self.trials = read_trials(folder)
        shape = object_of(skipped=list[shape_of(Skip, complete=True)])
        self.skipped = [Skip(**skip) for skip in (folder.read(SKIPPED, shape) or {"skipped": []})["skipped"]]
        self._interrupted = [trial for trial in self.trials if trial.state == "running"]
        whole = size(self.space) if config.search.algorithm == "grid" else DEFAULT_TRIALS
        self._limit = config.search.trials or whole

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def planned(self) -> int:
        """How many trials there may be."""
        return self.plan.trials if self.plan else self._limit * self.config.search.seeds

    def folder_of(self, trial: Trial) -> RunFolder:
        return RunFolder(self.folder.path / f"{self.name}-{trial.number:02d}")

    def config_of(self, trial: Trial) -> RunConfig:
        """The run of a trial."""
        config = as_trial(configure(self.config.run, trial.values), self.config)
        training = replace(config.training, seed=trial.seed)
        tracking = replace(config.tracking, register=None)
        storage = str(self.folder.path)
        own = {"name": None, "resume": False, "address": None}  # A trial is trained where the sweep has put it.
        return replace(config, **own, storage=storage, training=training, tracking=tracking)

    def configurations(self) -> list[Configuration]:
        """All that were tried, in their order."""
        groups: dict[int, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(trial.configuration, []).append(trial)
        return [Configuration(number, trials[0].values, trials) for number, trials in sorted(groups.items())]

    def describe(self, values: Values) -> str:
        """What values these are, in a few words."""
        return self.plan.describe(values) if self.plan else describe(values)

    @property
    def notes(self) -> dict[str, Any]:
        """What its folder holds of a plan, by the names of files."""
        return self.plan.notes if self.plan else {}

    def next(self) -> Trial | None:
        """The trial to start: one that was interrupted, another seed, or a new configuration; None if there is none.
        Raises: Wait where a plan has to."""
        if self._interrupted:
            return self._interrupted.pop(0)
        if self.plan:
            wanted = self.plan.next(self)
            return wanted and self._start(wanted.configuration - 1, wanted.configuration, wanted.values, wanted.seed)
        configurations = self.configurations()
        for one in configurations:
            if len(one.trials) < self.config.search.seeds and one.state in ("finished", "running"):
                return self._start(one.trials[0].draw, one.number, one.values, len(one.trials))
        if len(configurations) >= self._limit:
            return None
        drawn = self._draw()
        self._note_skipped()
        return drawn and self._start(drawn[0], len(configurations) + 1, drawn[1], 0)

    def update(self, trial: Trial) -> None:
        """Note what became of a trial."""
        trial.save(self.folder_of(trial))
        self.trials[trial.number - 1] = trial

    def first_valid(self) -> None:
        """Raises: UserError if the search does not come upon a single configuration that can be trained."""
        if not self.plan and not self.trials and self._draw() is None:
            reasons = sorted({skip.reason for skip in self.skipped})
            raise UserError(f"search.space holds no valid configuration: {'; '.join(reasons)}")

    def _start(self, number_of_draw: int, configuration: int, values: Values, seeds: int) -> Trial:
        trial = Trial(
            number=len(self.trials) + 1,
            configuration=configuration,
            draw=number_of_draw,
            seed=self.config.run.training.seed + seeds,
            values=values,
        )
        self.trials.append(trial)
        folder, config = self.folder_of(trial), self.config_of(trial)
        folder.path.mkdir(exist_ok=True)
        command = train_command(config, self.preset)
        folder.note_config(self.preset, command, config)
        trial.save(folder)
        return trial

    def _draw(self) -> tuple[int, Values] | None:
        """The next draw that is a new, valid configuration; None where the space has no more."""
        first = max([-1, *(trial.draw for trial in self.trials), *(skip.draw for skip in self.skipped)]) + 1
        tried = {identity(configure(self.config.run, one.values)): one.number for one in self.configurations()}
        for number in range(first, first + _PATIENCE):
            values = draw(self.space, self.config.search, number, self.history())
            if values is None:
                return None
            try:
                config = configure(self.config.run, values)
                self._check(config)
            except UserError as error:
                self.skipped.append(Skip(number, values, str(error)))
                continue
            same = tried.get(identity(config))
            if same is None:
                return number, values
            self.skipped.append(Skip(number, values, f"the same training as configuration {same}"))
        return None

    def _note_skipped(self) -> None:
        self.folder.write(SKIPPED, {"skipped": [asdict(skip) for skip in self.skipped]})

    def history(self) -> list[Seen]:
        """What the search learns from."""
        return [self._seen(configuration) for configuration in self.configurations()]

    def _seen(self, tried: Configuration) -> Seen:
        objectives = tuple(tried.mean(name) for name in self.config.search.objectives)
        whole = tried.state == "finished" and len(tried.trials) == self.config.search.seeds
        if tried.state == "finished" and (not whole or None in objectives):
            return Seen(values=tried.values, state="running")
        pruned = next((trial for trial in tried.trials if trial.state == "pruned"), None)
        return Seen(
            values=tried.values,
            state=tried.state,
            objectives=tuple(value for value in objectives if value is not None),
            reached=validations(self.folder_of(pruned), until=pruned.step) if pruned else None,
        )


def grace_steps(config: RunConfig, sweep: SweepConfig) -> int:
    """Steps that every trial gets before ASHA decides; it evaluates as often as that."""
    if sweep.search.scheduler == "none":
        return config.training.steps
    return max(1, int(sweep.search.grace * config.training.steps))


def as_trial(config: RunConfig, sweep: SweepConfig) -> RunConfig:
    """The config as a trial trains it: evaluated where ASHA decides."""
    every = min(config.training.evaluate_every, grace_steps(config, sweep))
    return replace(config, training=replace(config.training, evaluate_every=every))


def train_command(config: RunConfig, preset: str) -> str:
    """The command line that trains a configuration as a run of its own."""
    tracking = replace(config.tracking, register=None)
    run = replace(config, name=None, resume=False, storage=PRESETS[preset].storage, tracking=tracking)
    return f"python jobs/train.py {shlex.join([preset, *options_of(run, PRESETS[preset])])}"


def identity(config: RunConfig) -> str:
    """Equal for configs that train the same."""
    return repr((config.model, config.training, config.growth, config.accumulate, config.precision))


def describe(values: Values) -> str:
    """`fixed_rank 4, axiom_lambda 0.01`."""
    return ", ".join(f"{field.rpartition('.')[2]} {show(value)}" for field, value in values.items())
