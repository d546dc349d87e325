"""The training loop in its workers, under Ray Train or in this process; and what went wrong there, as one line."""

import errno
import os
import tempfile
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from h2q.errors import UserError
from pipeline.cluster.ray_internals import start_coordinator_early
from pipeline.cluster.resources import Resources
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.folder import RunFolder
from pipeline.runs.stop import interruptible
from pipeline.shown import presentable
from pipeline.tracking.provenance import versions
from pipeline.training.worker_config import WorkerConfig

if TYPE_CHECKING:  # It loads torch.
    from pipeline.training.task import Task


class TrainingFailed(Exception):
    """Training ended by an error that is not the user's. One line; the run can be resumed."""


def fit(
    config: RunConfig,
    folder: RunFolder,
    corpus: Corpus,
    resources: Resources,
    *,
    weights: Path | None,
    private: bool = False,
    began: float | None = None,
    task: "Task | None" = None,
) -> None:
    """Run the training loop in its workers, under Ray Train, or in this process where the run is `local`.

    `private`: Ray ends with this process. `weights`, `began` (None: now), `task` (None: next byte): see WorkerConfig.
    Raises: UserError and TrainingFailed as they happened in a worker.
    """
    import ray.train

    from pipeline.training.ray_trainer import lean_trainer, train_loop_per_worker

    worker = WorkerConfig(
        run=config,
        folder=folder.path,
        corpus=corpus.folder,
        weights=weights,
        use_gpu=resources.gpu,
        threads=resources.threads,
        began=time.time() if began is None else began,
        about={"config": config.to_dict(), "corpus_sha256": corpus.sha256, "versions": versions()},
        task=task,
    )
    # Whoever waits for a worker that hangs, waits so long: Ray's controller, `report`, the collectives of torch.
    for waiting in ("WORKER_HEALTH_CHECK", "COLLECTIVE"):
        os.environ[f"RAY_TRAIN_{waiting}_TIMEOUT_S"] = str(config.timeout)
    # Ray's own notes on a run are of no use here (it cannot resume from a damaged one): they lie in a temporary folder.
    # Only its controller writes there, and Ray keeps that on this node.
    with tempfile.TemporaryDirectory(prefix="h2q-ray-") as notes:
        if private:
            start_coordinator_early()
        trainer = lean_trainer(
            partial(train_loop_per_worker, worker),
            private=private,
            timeout=config.timeout,
            scaling_config=ray.train.ScalingConfig(
                num_workers=0 if config.local else config.workers,
                use_gpu=resources.gpu,
                resources_per_worker=None if config.local else {"CPU": resources.cpus, "GPU": int(resources.gpu)},
            ),
            run_config=ray.train.RunConfig(
                name=f"{time.time_ns()}",
                storage_path=notes,
                failure_config=ray.train.FailureConfig(max_failures=config.retries),
            ),
        )
        try:
            trainer.fit() if config.local else interruptible(trainer.fit)
        except UserError:
            raise
        except Exception as error:
            raise explained(error, folder) from error


def explained(error: Exception, folder: RunFolder) -> Exception:
    """What to raise for an error of Ray Train: what a worker raised, where that is a user's affair; else one line, and
    the whole of it in the run's error.txt."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    for failure in failures:
        if isinstance(failure, UserError):
            failure.__suppress_context__ = True
            return failure
        if isinstance(failure, OSError) and (said := _of_its_folder(failure, folder)):
            return UserError(f"{said}, then continue with {folder.to_resume}; what was saved is whole")
    with suppress(UserError, OSError):  # a store that is away
        (folder.path / "error.txt").write_text(presentable("".join(traceback.format_exception(error))))
    return TrainingFailed(
        f"{type(failures[0]).__name__}: {presentable(last_line(failures[0]))} (all of it in "
        f"{folder.path / 'error.txt'}; continue with {folder.to_resume})"
    )


def _of_its_folder(failure: OSError, folder: RunFolder) -> str | None:
    """What has become of the run's folder, and the way back; None where the error is of something else."""
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"storage must have room for checkpoints, but {folder.path} is full: free space there"
    if not folder.path.exists():
        return f"storage must stay in its place while a run trains, but {folder.path} is gone: put it back"
    if failure.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        place = failure.filename or folder.path
        return f"storage must stay writable while a run trains, but {place} is not ({failure.strerror}): make it so"
    return None


def last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else "no message"
