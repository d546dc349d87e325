"""Scoring a whole stream: by actors on Ray Data, or in this process. Every figure is the same, bit for bit."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.evaluation.carried import Lane, score_lane
from pipeline.evaluation.machine import Machine
from pipeline.evaluation.replayed import ReplayedScore
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import ROWS, Stream, Windows
from pipeline.training.precision import setup_precision

OnProgress = Callable[[Tally], None]
OnPart = Callable[[np.ndarray], object]
Plan = Sequence[Windows] | Sequence[Lane]

_GROUP = 4
"""Batches of windows that an actor is handed at a time."""


@dataclass(frozen=True)
class Weights:
    """A model on disk: its config, and the path of its safetensors."""

    config: ModelConfig
    path: Path


class ScoringFailed(Exception):
    """A worker ended by an error that is not the user's. One line."""


class Scorer:
    """A model and a stream, ready to score windows: one a process."""

    def __init__(self, model: Weights, data: Stream, window: int, machine: Machine, *, carry: bool = False) -> None:
        """`carry`: it will be given lanes, through which a state is carried, instead of windows."""
        torch.set_num_threads(machine.threads)
        self._autocast = setup_precision(machine.precision, machine.device)
        self._model = ByteModel(model.config)
        self._model.load_state_dict(load(model.path.read_bytes()))
        self._model.to(machine.device).eval()
        self._data, self._window, self._carry = data, window, carry
        self._replayed = ReplayedScore(self._model, window, self._autocast) if machine.gpu else None

    def table(self, windows: Windows | Lane, on_part: OnPart = lambda table: None) -> np.ndarray:
        """The table of one batch, or of a lane, see Tally. `on_part`: see `score_lane`."""
        if isinstance(windows, Lane):
            return score_lane(self._model, self._data, windows, self._autocast, on_part)
        rows = windows.read(self._data)
        # The plan's full batches have one shape.
        if self._replayed and len(rows) == ROWS:
            return self._replayed(rows, windows.skip)
        return score(self._model, rows, windows.skip, self._window, self._autocast)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A block of numbered batches, as Ray Data hands it over."""
        made = Lane if self._carry else Windows
        tables = [self.table(made(*(int(value) for value in row))) for row in batch["windows"]]
        return {"number": batch["number"], "table": np.stack(tables)}


def score_here(
    model: Weights, data: Stream, plan: Plan, window: int, machine: Machine, on_progress: OnProgress
) -> Tally:
    """The tally of all windows, or lanes, by this process."""
    scorer, tally = Scorer(model, data, window, machine), Tally.empty(window)
    for windows in plan:
        tally.add(scorer.table(windows, lambda part: on_progress(Tally(tally.table + part))))
        on_progress(tally)
    return tally


def score_on_ray(
    model: Weights,
    data: Stream,
    plan: Plan,
    window: int,
    machine: Machine,
    workers: int,
    on_progress: OnProgress,
) -> Tally:
    """The tally of all windows, or lanes, by so many actors of the Ray that is already initialised. They read
    weights and data themselves: on several nodes the paths must be ones that all of them see.

    Raises: ScoringFailed when a worker is lost.
    """
    import ray
    from ray.exceptions import RayError

    from pipeline.prepare.spread import quiet_ray_data

    quiet_ray_data()
    rows = [{"number": number, "windows": list(astuple(windows))} for number, windows in enumerate(plan)]
    carry = isinstance(plan[0], Lane)
    groups = len(rows) if carry else -(-len(rows) // _GROUP)
    with warnings.catch_warnings(action="ignore"):  # `max_restarts` has no other way in yet, says Ray.
        tables = ray.data.from_items(rows, override_num_blocks=groups).map_batches(
            Scorer,  # type: ignore[arg-type]
            fn_constructor_args=(model, data, window, machine),
            fn_constructor_kwargs={"carry": carry},
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(workers, groups)),
            num_cpus=machine.threads,
            num_gpus=int(machine.gpu),
            # With restarts Ray warns on the terminal of arguments in its object store, where it puts them itself.
            max_restarts=0,
        )
    numbered = ((int(row["number"]), row["table"]) for row in tables.iter_rows())
    try:
        return _added(numbered, window, on_progress)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ScoringFailed(f"{type(error).__name__}: {reason}; run it again, or with --local") from error


def _added(tables: Iterable[tuple[int, np.ndarray]], window: int, on_progress: OnProgress) -> Tally:
    tally = Tally.empty(window)
    for table in _in_order(tables):
        tally.add(table)
        on_progress(tally)
    return tally


def _in_order(numbered: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Tables by their number, as they come due: sums in floating point depend on the order."""
    waiting: dict[int, np.ndarray] = {}
    due = 0
    for number, table in numbered:
        waiting[number] = table
        while due in waiting:
            yield waiting.pop(due)
            due += 1
    assert not waiting, "a batch was lost"
