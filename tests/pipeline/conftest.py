"""A corpus and a model small enough to train in a test."""

import pydoc_data.topics
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from h2q.config import GrowthConfig, ModelConfig
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig, TrainingConfig
from pipeline.run_folder import RunFolder
from pipeline.summary import Summary


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of real English, as WikiText names them: 24, 3 and 3 kB."""
    folder = tmp_path_factory.mktemp("text")
    text = "".join(pydoc_data.topics.topics.values()).encode()
    for name, start, stop in (("train", 0, 24_000), ("valid", 24_000, 27_000), ("test", 27_000, 30_000)):
        (folder / f"wiki.{name}.raw").write_bytes(text[start:stop])
    return folder


@pytest.fixture(scope="session")
def tiny(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """Makes the config of a run of seconds in this process; keywords replace fields: `training={"steps": 4}`."""
    prepared = tmp_path_factory.mktemp("prepared")

    def make(storage: Path, *, growing: bool = False, **changes: Any) -> RunConfig:
        config = RunConfig(
            name="run",
            storage=str(storage / "runs"),
            local=True,
            model=ModelConfig(
                dim=32, depth=2, heads=2, factor=4, fixed_rank=1 if growing else 2, max_rank=4, seq_len=16, dropout=0.1
            ),
            corpus=CorpusConfig(path=str(text_folder), prepared=str(prepared)),
            training=TrainingConfig(
                steps=12, lanes=4, warmup=2, learning_rate=1e-2, log_every=2, evaluate_every=6, save_every=4, keep=9
            ),
            growth=GrowthConfig(enabled=growing, warmup=3, interval=3, window=1, lookback=2, threshold=0.01),
            tracking=TrackingConfig(uri=f"sqlite:///{storage / 'mlflow.db'}"),
        )
        for name, change in changes.items():
            part = getattr(config, name)
            config = replace(config, **{name: replace(part, **change) if isinstance(change, dict) else change})
        return config

    return make


@pytest.fixture
def train() -> Callable[[RunConfig], tuple[Summary, RunFolder, str]]:
    """Trains a run; gives its summary, its folder, and what was said meanwhile."""

    def run(config: RunConfig) -> tuple[Summary, RunFolder, str]:
        from pipeline.train import train as train_run

        said = StringIO()
        console = Console(file=said, width=200)
        summary, folder, _ = train_run(config, preset="tiny", command="python jobs/train.py tiny", console=console)
        summary.show(console, folder.path)
        return summary, folder, said.getvalue()

    return run
