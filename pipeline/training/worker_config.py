"""What a worker is told; the driver makes it without torch, and pickle takes it to wherever the worker runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import RunConfig
from pipeline.storage.path import AnyPath

if TYPE_CHECKING:
    from pipeline.training.task import Task


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """One for all workers of a run."""

    run: RunConfig
    folder: Path
    """Of the run."""
    corpus: AnyPath
    """Folder of the prepared corpus."""
    weights: AnyPath | None
    """The checkpoint that a new run begins with: `run.init_from`, which is noted down, without the password taken out
    there."""
    use_gpu: bool
    threads: int
    """Of the CPU."""
    began: float
    """When the run would have begun had it never been interrupted, in seconds since the epoch."""
    about: dict[str, Any]
    """What every checkpoint says of its origin."""
    task: "Task | None" = None
    """What the run learns. None: to predict the next byte."""
