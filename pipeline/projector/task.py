"""To write what a core's states hold, as a task for the loop of training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from h2q.config import BoundProjector
from h2q.projector import Projector
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.mixed import AnySplit
from pipeline.projector.core import Reader, find_core
from pipeline.projector.reading import read_at
from pipeline.projector.score import cost, held_out
from pipeline.projector.step import make_step
from pipeline.training.precision import Autocast
from pipeline.training.step import Step
from pipeline.training.train_state import TrainState
from pipeline.training.validate import EvaluationStopped
from pipeline.training.worker import Worker

CALIBRATION, STRIDE = 1 << 16, 32
"""Mean and spread of the core's numbers are measured over the first bytes of the training text, one moment in so many
of them."""


@dataclass(frozen=True)
class Projection:
    """The task of a projector."""

    config: BoundProjector

    @cached_property
    def core(self) -> Reader:
        """Read where it is needed: a worker's own."""
        return find_core(self.config)

    def begin(self, train_state: TrainState, corpus: Corpus) -> None:
        """Measure mean and spread of the core's numbers."""
        model, text = train_state.model, corpus.train
        self.core.to(model.device)
        length = model.config.seq_len
        moments = held_out(
            self.core, text, last=1, ahead=1, stride=STRIDE, at_once=length, device=model.device, size=CALIBRATION
        )
        model.standardise(torch.cat([found.features for found in moments]))

    def step(self, train_state: TrainState, forward: Any, run: RunConfig, autocast: Autocast, *, graph: bool) -> Step:
        """Eager, whatever `graph` says: lengths differ from step to step."""
        self.core.to(train_state.model.device)
        return make_step(train_state, forward, self.core, run, autocast)

    def score(
        self,
        model: Projector,
        split: AnySplit,
        worker: Worker,
        autocast: Autocast,
        *,
        size: int,
        on_progress: Callable[[int, int], object],
        stopped: Callable[[], bool],
        carry: bool = True,
    ) -> float:
        """Bits per byte of the last bytes before moments of the split; not `carry`: the core begins at zero one
        chunk before each. Raises: EvaluationStopped, on all workers, once `stopped` says so on one."""
        training = model.training
        model.eval()
        share, chunk = (worker.world_rank, worker.world_size), model.config.seq_len
        told: dict[str, Any] = {"last": self.config.last, "ahead": self.config.next, "device": worker.device}
        told |= {"stride": chunk, "at_once": chunk, "size": size, "share": share}
        nats, count, read, cut, window = 0.0, 0, 0, False, None if carry else chunk
        for found in held_out(self.core, split, window=window, **told):
            nats += cost(model, found.features, found, autocast).last.sum()
            count += found.last.numel()
            read += len(found.features) * chunk * worker.world_size
            on_progress(min(read, size), size)
            if cut := stopped():
                break
        model.train(training)
        sums = torch.tensor([nats, count, cut], dtype=torch.float64, device=worker.device)
        total, scored, unfinished = worker.sum(sums).tolist()
        if unfinished:
            raise EvaluationStopped
        return total / scored / math.log(2)

    def sample(self, to: Path, step: int, model: Projector, split: AnySplit, run: RunConfig, stopped: Any) -> bool:
        """What the state in the middle of the split says, beside what stands there."""
        training = model.training
        reading = read_at(self.core, model, split, len(split) // 2)
        model.train(training)
        to.mkdir(exist_ok=True)
        (to / f"step-{step:09d}.txt").write_text(reading.plain(), encoding="utf-8")
        return True
