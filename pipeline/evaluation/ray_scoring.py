"""Scoring whole streams: by actors on Ray Data, or in this process. Every figure is the same, bit for bit."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.corpus.side_by_side import Stretch
from pipeline.evaluation.carried import score_lane
from pipeline.evaluation.machine import Machine
from pipeline.evaluation.replayed import ReplayedScore
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import ROWS, Stream, Windows
from pipeline.shown import presentable
from pipeline.training.precision import setup_precision

OnProgress = Callable[[Tally], object]
OnPart = Callable[[np.ndarray], object]
Plan = Sequence[Windows] | Sequence[Stretch]
"""What is scored of one stream."""

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
    """A model and streams, ready to score windows of them: one a process."""

    def __init__(
        self, model: Weights, streams: Sequence[Stream], window: int, machine: Machine, *, carry: bool = False
    ) -> None:
        """`carry`: it will be given lanes, through which a state is carried, instead of windows."""
        torch.set_num_threads(machine.threads)
        self._autocast = setup_precision(machine.precision, machine.device)
        self._model = ByteModel(model.config)
        self._model.load_state_dict(load(model.path.read_bytes()))
        self._model.to(machine.device).eval()
        self._streams, self._window, self._carry = streams, window, carry
        self._replayed = ReplayedScore(self._model, window, self._autocast) if machine.gpu else None

    def table(self, stream: int, windows: Windows | Stretch, on_part: OnPart = lambda table: None) -> np.ndarray:
        """The table of one batch of a stream, or of a lane, see Tally. `on_part`: see `score_lane`."""
        data = self._streams[stream]
        if isinstance(windows, Stretch):
            return score_lane(self._model, data, windows, self._autocast, on_part)
        rows = windows.read(data)
        # The plan's full batches have one shape.
        if self._replayed and len(rows) == ROWS:
            return self._replayed(rows, windows.skip)
        return score(self._model, rows, windows.skip, self._window, self._autocast)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A block of numbered batches, as Ray Data hands it over."""
        made = Stretch if self._carry else Windows
        rows = [[int(value) for value in row] for row in batch["windows"]]
        tables = [self.table(stream, made(*values)) for stream, *values in rows]
        return {"number": batch["number"], "table": np.stack(tables)}


def score_here(
    model: Weights,
    streams: Sequence[Stream],
    plans: Sequence[Plan],
    window: int,
    machine: Machine,
    on_progress: OnProgress,
) -> list[Tally]:
    """For each stream the tally of all its windows, or lanes, by this process. `on_progress` is given what there is of
    all together."""
    scorer, tallies, whole = Scorer(model, streams, window, machine), _none(plans, window), Tally.empty(window)
    for stream, windows in _pieces(plans):
        table = scorer.table(stream, windows, lambda part: on_progress(Tally(whole.table + part)))
        _add(table, tallies[stream], whole, on_progress)
    return tallies


def score_on_ray(
    model: Weights,
    streams: Sequence[Stream],
    plans: Sequence[Plan],
    window: int,
    machine: Machine,
    workers: int,
    on_progress: OnProgress,
) -> list[Tally]:
    """The same by so many actors of the Ray that is already initialised, which share out the pieces of all streams.
    They read weights and data themselves: on several nodes the paths must be ones that all of them see.

    Raises: ScoringFailed when a worker is lost.
    """
    import ray
    from ray.exceptions import RayError

    from pipeline.prepare.spread import quiet_ray_data

    quiet_ray_data()
    pieces = _pieces(plans)
    rows = [{"number": number, "windows": [at, *windows]} for number, (at, windows) in enumerate(pieces)]
    carry = isinstance(pieces[0][1], Stretch)
    groups = len(rows) if carry else -(-len(rows) // _GROUP)
    with warnings.catch_warnings(action="ignore"):  # `max_restarts` has no other way in yet, says Ray.
        tables = ray.data.from_items(rows, override_num_blocks=groups).map_batches(
            Scorer,  # type: ignore[arg-type]
            fn_constructor_args=(model, streams, window, machine),
            fn_constructor_kwargs={"carry": carry},
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(workers, groups)),
            num_cpus=machine.threads,
            num_gpus=int(machine.gpu),
            # With restarts Ray warns on the terminal of arguments in its object store, where it puts them itself.
            max_restarts=0,
        )
    numbered = ((int(row["number"]), row["table"]) for row in tables.iter_rows())
    tallies, whole = _none(plans, window), Tally.empty(window)
    try:
        for (stream, _), table in zip(pieces, _in_order(numbered), strict=True):
            _add(table, tallies[stream], whole, on_progress)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        told = f"{type(error).__name__}: {presentable(reason)}; run it again, or with --local"
        raise ScoringFailed(told) from error
    return tallies


def _pieces(plans: Sequence[Plan]) -> list[tuple[int, Windows | Stretch]]:
    """The pieces of all streams, each with the number of its stream."""
    return [(stream, windows) for stream, plan in enumerate(plans) for windows in plan]


def _none(plans: Sequence[Plan], window: int) -> list[Tally]:
    return [Tally.empty(window) for _ in plans]


def _add(table: np.ndarray, to: Tally, whole: Tally, on_progress: OnProgress) -> None:
    to.add(table)
    whole.add(table)
    on_progress(whole)


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
