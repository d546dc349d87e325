"""What a sweep leaves where it is killed: Tune's notes, too, hold no password."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipeline.cluster.resources import Resources
from pipeline.config import PRESETS
from pipeline.runs.folder import RunFolder
from pipeline.storage.path import locate
from pipeline.sweep import driver
from pipeline.sweep.capacity import Capacity
from pipeline.sweep.config import SearchConfig, SweepConfig
from pipeline.sweep.progress import SweepProgress
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.tracking import SweepTracking


@pytest.mark.usefixtures("ray_cluster")
def test_nothing_that_tune_notes_holds_a_password(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes are read as a kill would leave them: where they would be deleted. The trial finds no corpus there."""
    for name, value in driver._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    notes: dict[str, bytes] = {}

    def look(folder: Path, **options: Any) -> None:
        notes.update({path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})

    search = SearchConfig(space=("model.fixed_rank=1",), algorithm="grid", scheduler="none")
    sweep = Sweep(RunFolder(tmp_path), SweepConfig(run=PRESETS["laptop"], search=search), "laptop", lambda _: None)
    capacity = Capacity(trials=1, workers=1, resources=Resources(gpu=False, threads=1), gpu_share=1.0)
    corpus: Any = SimpleNamespace(name="text", sha256="ab", folder=locate(store.uri("bucket/prepared")))
    with SweepProgress(Console(file=io.StringIO())) as progress, monkeypatch.context() as patched:
        progress.begin(sweep, capacity, {"validation": 9000, "test": 9000})
        patched.setattr(shutil, "rmtree", look)
        tracking = SweepTracking(None, sweep, corpus, "", progress)
        driver.search(sweep, capacity, corpus, locate(store.uri("bucket/first")), tracking, progress)
    [trial] = sweep.trials
    assert trial.state == "failed" and trial.error and "s3://bucket/prepared" in trial.error
    assert any(name.startswith("experiment_state") for name in notes)
    assert not [name for name, content in notes.items() if b"secret" in content]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
