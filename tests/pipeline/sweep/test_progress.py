"""What a sweep says before its first trial."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from h2q.config import ModelConfig
from pipeline.cluster.resources import Resources
from pipeline.config import PRESETS
from pipeline.runs.folder import RunFolder
from pipeline.sweep.capacity import Capacity
from pipeline.sweep.config import SearchConfig, SweepConfig
from pipeline.sweep.progress import SweepProgress
from pipeline.sweep.sweep import Sweep

MODEL = ModelConfig(dim=64, depth=2, heads=2, factor=4, fixed_rank=2, seq_len=16)
CAPACITY = Capacity(trials=2, workers=1, resources=Resources(gpu=False, cpus=1, threads=1), gpu_share=1.0)


@pytest.mark.parametrize("space", [None, ("model.fixed_rank=1,2",)])
def test_who_chose_no_space_is_told_which_one_and_how_long_before_it_starts(
    tmp_path: Path, space: tuple[str, ...] | None
) -> None:
    search = SearchConfig(trials=4) if space is None else SearchConfig(trials=4, space=space)
    config = SweepConfig(run=replace(PRESETS["laptop"], model=MODEL), search=search)
    said = io.StringIO()
    SweepProgress(Console(file=said, width=200)).begin(
        Sweep(RunFolder(tmp_path), config, "laptop", lambda _: None), CAPACITY, {"validation": 9000, "test": 9000}
    )
    text = said.getvalue()
    assert "training.evaluate_every is 400 in trials, not 500" in text, "what is overridden is said"
    assert ("no --search.space was given" in text) == ("if no trial is stopped early" in text) == (space is None)
