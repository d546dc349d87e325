"""What a run learns: all that the loop does not know of it. To predict the next byte is one task; a projector has
another.

The loop is given the task by its driver, and a worker gets it as it is pickled: it holds options only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from h2q.model import ByteModel
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.mixed import AnySplit
from pipeline.training.precision import Autocast
from pipeline.training.samples import write_sample
from pipeline.training.step import Step, make_step
from pipeline.training.train_state import TrainState
from pipeline.training.validate import bits_per_byte
from pipeline.training.worker import Worker


class Task(Protocol):
    """What the loop asks of what a run learns."""

    def begin(self, train_state: TrainState, corpus: Corpus) -> None:
        """What new weights need to know of the corpus, before the first step."""
        ...

    def step(self, train_state: TrainState, forward: Any, run: RunConfig, autocast: Autocast, *, graph: bool) -> Step:
        """What takes a step, see `make_step`."""
        ...

    def score(
        self,
        model: Any,
        split: AnySplit,
        worker: Worker,
        autocast: Autocast,
        *,
        size: int,
        on_progress: Callable[[int, int], object],
        stopped: Callable[[], bool],
        carry: bool = True,
    ) -> float:
        """Bits per byte of a split, see `bits_per_byte`."""
        ...

    def sample(
        self, to: Path, step: int, model: Any, split: AnySplit, run: RunConfig, stopped: Callable[[], bool]
    ) -> bool:
        """Write what a person wants to see of the model, see `write_sample`."""
        ...


@dataclass(frozen=True)
class NextByte:
    """To predict the next byte of the corpus."""

    def begin(self, train_state: TrainState, corpus: Corpus) -> None:
        pass

    def step(self, train_state: TrainState, forward: Any, run: RunConfig, autocast: Autocast, *, graph: bool) -> Step:
        return make_step(train_state, forward, run, autocast, graph=graph)

    def score(self, model: ByteModel, split: AnySplit, worker: Worker, autocast: Autocast, **told: Any) -> float:
        return bits_per_byte(model, split, worker, autocast, **told)

    def sample(
        self, to: Path, step: int, model: ByteModel, split: AnySplit, run: RunConfig, stopped: Callable[[], bool]
    ) -> bool:
        last = step == run.training.steps
        return write_sample(to, step, model, split, run.corpus.kind, stopped, last)
