"""Progress: what is shown is what was recorded, live or as plain lines."""

import re
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from h2q.config import GrowthConfig, ModelConfig
from pipeline.config import RunConfig, TrainingConfig
from pipeline.terminal import human_bytes, human_seconds
from pipeline.training.progress import Progress

RECORD = {
    "step": 10,
    "train/bpb": 3.21,
    "energy/block_00": 5.0,
    "energy/block_01": 7.5,
    "growth/rank": 8,
    "learning_rate": 0.00123,
    "bytes_per_second": 30720.0,
    "memory/peak_bytes": 412_000_000,
}


def config(**training: Any) -> RunConfig:
    options: dict[str, Any] = {"steps": 100, "lanes": 24, "evaluate_every": 50} | training
    return RunConfig(training=TrainingConfig(**options))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_record_is_shown_with_all_that_matters(terminal: bool) -> None:
    said = StringIO()
    console = Console(file=said, width=200, force_terminal=terminal)
    with Progress(console, config()) as progress:
        progress.show([RECORD, {"step": 20, "validation/bpb": 3.0}])
    words = ("step  20/100", "3.210 bpb", "validation 3.000", "lr 0.0012", "30.7 kB/s", "412 MB", "ETA 0:08")
    line = said.getvalue()
    assert [word for word in words if word not in line] == []
    assert sorted(words[1:], key=line.rindex) == list(words[1:]), "in this order"
    assert "energy" not in line and "rank" not in line and "skipped" not in line


def test_energy_rank_and_skipped_steps_are_shown_where_they_say_something() -> None:
    said = StringIO()
    growing = replace(config(), model=ModelConfig(max_rank=9), growth=GrowthConfig(enabled=True))
    with Progress(Console(file=said, width=200), growing) as progress:
        progress.show([RECORD | {"energy/block_01": 60.0, "skipped_steps": 3}])
    assert "rank 8" in said.getvalue() and "3 skipped" in said.getvalue()
    assert "energy 60 (×12)" in said.getvalue()


def test_evaluations_belong_to_the_time_left() -> None:
    progress = Progress(Console(file=StringIO()), config(evaluate_bytes=2_000))
    corpus: Any = SimpleNamespace(validation=bytes(10_000), test=bytes(1_000))
    progress.judge_by(corpus)
    assert progress.seconds_left() is None
    progress.show([{"step": 0, "bytes_per_second": 1.0, "memory/peak_bytes": 0}])
    progress.show([{"step": 10, "bytes_per_second": 1000.0, "memory/peak_bytes": 0}])
    steps = 90 * 24 * 128 / 1000  # the first step, which makes everything ready, does not count
    assert progress.seconds_left() == pytest.approx(steps + (2 * 2_000 + 1_000) / 3000)
    progress.show([{"step": 50, "validation/bpb": 3.0, "evaluation_seconds": 40.0}])
    assert progress.seconds_left() == pytest.approx(steps * 50 / 90 + 40.0 + 20.0)
    progress.show([{"step": 100, "validation/bpb": 3.0, "test/bpb": 3.0, "evaluation_seconds": 60.0}])
    assert progress.seconds_left() == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_an_evaluation_shows_how_far_it_is(terminal: bool) -> None:
    said = StringIO()
    with Progress(Console(file=said, width=120, force_terminal=terminal), config()) as progress:
        progress.show([RECORD])
        progress._shown_at = -1e9
        progress.evaluating({"name": "validation", "done": 400_000, "total": 1_300_000})
    assert "step  10/100  evaluating validation" in said.getvalue() and "400 kB of 1.3 MB" in said.getvalue()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_line_fits_the_terminal(width: int) -> None:
    said = StringIO()
    with Progress(Console(file=said, width=width, force_terminal=True), config(steps=200_000)) as progress:
        progress.show([RECORD, {"step": 123_456, "validation/bpb": 3.0}])
        progress.evaluating({"name": "validation", "done": 400_000, "total": 1_300_000})
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split("[\r\n]+", said.getvalue())]
    assert all(len(line) <= width for line in lines), lines
    assert any("3.210 bpb" in line and "ETA" in line and "…" not in line for line in lines), lines


def test_plain_lines_are_few_but_every_validation_is_one() -> None:
    said = StringIO()
    with Progress(Console(file=said, width=200), RunConfig(training=TrainingConfig(steps=100))) as progress:
        for step in range(50):
            progress.show([RECORD | {"step": step}])
        progress.show([{"step": 50, "validation/bpb": 3.0}])
        progress.show([{"step": 60, "validation/bpb": 2.9}])
    lines = said.getvalue().splitlines()
    assert len(lines) == 3 and "validation 3.000" in lines[1] and "validation 2.900" in lines[2]


def test_numbers_for_people() -> None:
    assert [human_bytes(count) for count in (7, 1234, 12_345_678, 9.9e10)] == ["7 B", "1.23 kB", "12.3 MB", "99 GB"]
    assert [human_seconds(seconds) for seconds in (5, 65, 3725, 86_399, 100_000)] == [
        "0:05",
        "1:05",
        "1:02:05",
        "23:59:59",
        "1 d 4 h",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_brackets_in_a_path_are_shown_as_they_are(terminal: bool) -> None:
    said = StringIO()
    console = Console(file=said, width=200, force_terminal=terminal)
    with Progress(console, RunConfig()) as progress:
        progress.say("run /data/[red]/[/x]")
        progress.stage("opening /data/[red]/[/x]")
    assert "run /data/[red]/[/x]" in said.getvalue() and "opening /data/[red]/[/x]" in said.getvalue()
