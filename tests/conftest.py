"""Fixtures that test modules share."""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from pipeline.runs.folder import RunFolder

# A busy machine is no failure: no example is timed. The quick loop tries a quarter of the examples where a test
# does not say how many.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=25)

# Small models compute best on one thread; more of them, in several processes, spin against each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


PROGRAMS = {"ray_cluster", "cluster", "tracking_server", "server", "store", "browser", "compiler"}
"""Fixtures that start Ray, a server, a browser or a compiler: a test that uses one is marked `ray`."""

LONGEST = (
    *("test_submit.py", "test_faults.py", "test_driver.py", "test_tune.py", "test_readmes.py", "test_train.py"),
    *("test_registry.py", "test_exposure.py", "test_fuzz.py"),
)
"""Files that take half a minute or more: they come first, so that the end does not wait for one."""

ON_REQUEST = ("slow", "gpu")
"""Marks of tests that run only where `-m` names the mark."""


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples hypothesis tries, unless `--hypothesis-profile` did."""
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("quick" if "not ray" in config.option.markexpr else "untimed")


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """The source of a class, in which tyro looks for docstrings, is read once: a tenth of a second less for every
    command line. A tyro with other private parts reads it as often as it does."""
    with ExitStack() as kept:
        with suppress(ImportError, AttributeError):
            from tyro._docstrings import _ClassTokenization

            kept.enter_context(patch.object(_ClassTokenization, "make", cache(_ClassTokenization.make)))
        yield


@pytest.hookimpl(tryfirst=True)  # pytest itself chooses by -m afterwards
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what starts programs, begin with what takes longest, leave out what `-m` does not name or no GPU can run."""
    for item in items:
        if not PROGRAMS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.ray)
    asked = re.findall(r"\w+", config.option.markexpr)
    unasked = [name for name in ON_REQUEST if name not in asked]
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unasked)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    need_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not need_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in need_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch finds none here"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Puts a store that MLflow made, still empty, into a folder; its URI. Making one takes MLflow two seconds."""
    template = tmp_path_factory.mktemp("store") / "mlflow.db"

    def put(folder: Path) -> str:
        path = folder / "mlflow.db"
        if not path.exists():
            if not template.exists():
                from mlflow.tracking import MlflowClient

                MlflowClient(f"sqlite:///{template}").search_experiments()
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(template, path)
        return f"sqlite:///{path}"

    return put


@pytest.fixture
def past_run() -> "Callable[..., RunFolder]":
    """Writes the folder of a run that has ended, as training leaves it, without its weights."""
    from pipeline.config import PRESETS
    from pipeline.runs.folder import RunFolder

    def write(path: Path, bpb: float, *, corpus: str = "a", steps: int = 100, **training: Any) -> RunFolder:
        folder = RunFolder(path)
        path.mkdir(parents=True)
        laptop = PRESETS["laptop"]
        config = replace(laptop, training=replace(laptop.training, steps=steps, **training))
        folder.note_config("laptop", "python jobs/train.py", config)
        seen = steps * config.bytes_per_step
        records = [{"step": steps // 2, "time": 5.0, "train/bpb": bpb + 1, "validation/bpb": bpb + 0.5}]
        records += [{"step": steps, "time": 9.0, "validation/bpb": bpb, "test/bpb": bpb + 0.1}]
        folder.journal.write_text("".join(json.dumps(record) + "\n" for record in records))
        about = {"corpus": f"corpus {corpus}", "corpus_sha256": 64 * corpus, "sample": "The sample."}
        sizes = {"steps": steps, "parameters": 202_512, "bytes_seen": seen, "seconds": 61.5}
        folder.write_summary({"name": path.name, "status": "finished", "validation_bpb": bpb, **sizes, **about})
        return folder

    return write


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray of two CPUs, started once for all tests that need one."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200_000_000,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def wikitext() -> Path:
    """The folder of real text that the environment variable H2Q_CORPUS names (wiki.valid.raw, wiki.test.raw)."""
    folder = os.environ.get("H2Q_CORPUS")
    if not folder:
        pytest.skip("set H2Q_CORPUS to a folder with wiki.valid.raw and wiki.test.raw")
    return Path(folder)
