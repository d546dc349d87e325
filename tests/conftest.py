"""Fixtures that test modules share."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure: no example is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Small models compute best on one thread; more of them, in several processes, spin against each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of GPU paths say that they were skipped, where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch finds none here"))


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
