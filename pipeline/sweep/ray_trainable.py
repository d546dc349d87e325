"""What Ray Tune runs for a trial: the training loop of every run, and its validations, one after the other.

The training writes its journal as it always does; this reads it. A trial that is started again therefore reports its
earlier validations first, then goes on from its newest valid checkpoint.
"""

import queue
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from h2q.errors import UserError
from pipeline.cluster.resources import Resources
from pipeline.corpus.corpus import open_corpus
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Follower, Record
from pipeline.runs.load import run_config
from pipeline.runs.stop import request_stop
from pipeline.storage.lock import lock
from pipeline.training.fit import TrainingFailed, fit


class TrialTraining(tune.Trainable):
    """Trains the run in `config["folder"]`; every step of Tune's is one validation."""

    def setup(self, config: dict[str, Any], corpus: Path, weights: Path | None, resources: Resources) -> None:
        """`config` holds `folder`, of the run; `corpus`: folder of the prepared corpus; `weights`: see WorkerConfig."""
        self._folder = RunFolder(Path(config["folder"]))
        self._run = run_config(self._folder)
        self._records: queue.Queue[list[Record] | None] = queue.Queue()
        self._ready: list[Record] = []
        self._error: str | None = None
        self._last = -1
        self._began = time.time()
        self._first: Record | None = None
        """Of this start, not of one before."""
        self._thread = threading.Thread(target=self._train, args=(corpus, weights, resources), daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Wait for the next validation, or for the end: the last one, an error or an interruption."""
        while not self._ready:
            records = self._records.get()
            if records is None:
                return {"done": True, "finished": self._last == self._run.training.steps, "error": self._error}
            self._last = records[-1]["step"]
            self._first = self._first or next((each for each in records if each["time"] >= self._began), None)
            # The end is reported when all is written, and is not for a scheduler to judge.
            self._ready += [
                record for record in records if "validation/bpb" in record and record["step"] < self._run.training.steps
            ]
        record = self._ready.pop(0)
        return {
            "step": record["step"],
            "bytes": record["step"] * self._run.bytes_per_step,
            "validation/bpb": record["validation/bpb"],
            "pace": self._pace(record),
        }

    def _pace(self, record: Record) -> float | None:
        """Seconds a step in this start, None where there was none before the record."""
        if self._first is None or record["step"] <= self._first["step"]:
            return None
        return (record["time"] - self._first["time"]) / (record["step"] - self._first["step"])

    def cleanup(self) -> None:
        """End the training between two steps, with a checkpoint."""
        request_stop(self._folder.path)
        self._thread.join()

    def _train(self, folder: Path, weights: Path | None, resources: Resources) -> None:
        try:
            corpus = open_corpus(folder, self._run.corpus)
            run = replace(self._run, local=self._run.workers == 1)
            with (
                # A process of a killed sweep may train here some seconds longer than its driver lives.
                lock(self._folder.lock_file),
                Follower(self._folder.journal, self._records.put, every_seconds=0.05),
            ):
                fit(run, self._folder, corpus, resources, weights=weights)
        except (UserError, TrainingFailed) as error:
            self._error = str(error)
        except BaseException as error:
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self._records.put(None)
