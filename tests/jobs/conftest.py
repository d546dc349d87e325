"""A job called in this process, which has imported everything already: in one of its own that takes seconds."""

import importlib.util
import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from unittest.mock import patch

import pytest

from h2q.config import ModelConfig
from pipeline.cli import run
from pipeline.config import CorpusConfig, RunConfig

JOBS = Path(__file__).parents[2] / "jobs"

Done = subprocess.CompletedProcess


def load_job(name: str) -> ModuleType:
    """The job as a module, among those that Python knows: tyro looks there for its docstrings."""
    spec = importlib.util.spec_from_file_location(f"jobs.{name}", JOBS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _save_nothing(_: object, to: Path | io.BytesIO, **__: object) -> None:
    (to.write_bytes if isinstance(to, Path) else to.write)(b"")


@pytest.fixture
def call_job(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """`call_job(name, folder, *options)`: the job's exit code, output and errors, in the folder. As text, or as bytes.

    With `pictures` those are drawn; else their files are empty, which saves a second for each. What a user's screen
    shows beside that (warnings, a traceback at exit) needs a process of its own.
    """

    def call(
        name: str, folder: Path, *options: str, given: bytes = b"", text: bool = True, pictures: bool = False
    ) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
        monkeypatch.setattr("pipeline.threads._LOOK_SECONDS", 0.01)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        capfdbinary.readouterr()
        drawn = nullcontext() if pictures else patch("matplotlib.figure.Figure.savefig", _save_nothing)
        with drawn, pytest.raises(SystemExit) as stop:
            run(load_job(name).main)
        said = capfdbinary.readouterr()
        out, err = (part.decode() if text else part for part in said)
        assert isinstance(stop.value.code, int)
        return Done(options, stop.value.code, out, err)

    return call


@pytest.fixture(scope="session")
def make_run() -> Callable[..., None]:
    """`make_run(storage, name, **model)`: a run with one checkpoint of a small model, which writes any byte; `corpus`:
    the kind that it was trained on."""

    def make(storage: Path, name: str, corpus: Literal["text", "bytes"] = "text", **changes: Any) -> None:
        import torch

        from h2q.model import ByteModel
        from pipeline.runs.checkpoint import Checkpoint, to_host, write_checkpoint
        from pipeline.runs.folder import claim_folder

        torch.manual_seed(0)
        sizes: dict[str, Any] = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 16}
        model_config = ModelConfig(**{**sizes, **changes})
        config = RunConfig(name=name, storage=str(storage), model=model_config, corpus=CorpusConfig(kind=corpus))
        model = ByteModel(config.model)
        storage.mkdir(exist_ok=True)
        folder = claim_folder(storage, config, "tiny", "a test")
        state = {"step": 3, "config": config.to_dict()}
        write_checkpoint(folder.checkpoints, Checkpoint(model=to_host(model.state_dict()), optimizer={}, state=state))

    return make
