"""Command lines: a config and the options that make it are the same thing."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2q.errors import UserError
from jobs.generate import GenerateOptions
from pipeline.cli import options_of, parse
from pipeline.config import PRESETS, RunConfig
from pipeline.evaluation.config import EvaluationConfig
from pipeline.suggestions import option_names
from pipeline.sweep.config import SweepConfig


@pytest.mark.parametrize("name", PRESETS)
def test_the_options_of_a_config_give_it_back(name: str) -> None:
    laptop = PRESETS["laptop"]
    changed = replace(PRESETS[name], name="a b", resume=True, storage="here", workers=2)
    for default in (laptop, RunConfig()):
        options = options_of(changed, default)
        told = parse(RunConfig, options, default=default, prog="train")
        assert replace(told, model=replace(told.model, max_rank=changed.model.max_rank)) == changed, options


def test_nothing_is_said_of_what_is_usual() -> None:
    assert options_of(PRESETS["h2q"], PRESETS["h2q"]) == []
    assert options_of(replace(PRESETS["h2q"], local=True), PRESETS["h2q"]) == ["--local"]


@pytest.mark.parametrize(
    ("asked", "likely"),
    [
        ("--model.dmi", "--model.dim"),
        ("--lr", "--training.learning-rate"),
        ("--steps", "--training.steps"),
        ("--model.steps=3", "--training.steps"),
        ("--wd", "--training.weight-decay"),
        ("--batch-size", "--training.lanes"),
        ("--no-tracking", "--tracking.no-enabled"),
        ("--training.learnin_rate", "--training.learning-rate"),
    ],
)
def test_a_misspelt_option_is_told_with_the_likeliest_first_and_one_to_a_line(asked: str, likely: str) -> None:
    for config in (RunConfig(), SweepConfig()):
        with pytest.raises(UserError) as caught:
            parse(type(config), [asked, "64", "--training.steps", "5"], default=config, prog="train")
        first, second, *others = str(caught.value).splitlines()
        assert first == f"there is no option {asked.partition('=')[0].replace('_', '-')}; likely:"
        assert second == f"  {likely}" and len(others) <= 2
        assert all(line.startswith("  --") for line in others)


def test_a_wrong_choice_is_one_sentence_that_points_to_help() -> None:
    with pytest.raises(UserError, match=r"\('bpb', 'bpb\+parameters', 'bpb\+time'\); run tune .*--help$"):
        parse(SweepConfig, ["--search.objective", "foo"], default=SweepConfig(), prog="tune")
    with pytest.raises(UserError, match=r"'always'\); run train .*--help$"):
        parse(RunConfig, ["--corpus.verify", "foo"], default=RunConfig(), prog="train")


def test_an_option_like_no_other_points_to_help() -> None:
    with pytest.raises(UserError, match=r"^there is no option --zzzzzz; --help lists all$"):
        parse(RunConfig, ["--zzzzzz"], default=RunConfig(), prog="train")


@pytest.mark.parametrize("config", [RunConfig(), SweepConfig(), GenerateOptions(), EvaluationConfig()], ids=repr)
def test_what_counts_as_an_option_is_listed_by_help(config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(type(config), ["--help"], default=config, prog="job")
    listed = capsys.readouterr().out
    assert [name for name in option_names(config) if f"--{name}" not in listed] == []


@pytest.mark.ray  # a program of its own
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_of_any_encoding_is_told_the_rule(encoding: str) -> None:
    job = Path(__file__).parents[2] / "jobs" / "train.py"
    wrong = subprocess.run(
        [sys.executable, str(job), "--training.steps", "0"],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(b"error: training.steps must be at least 1, got 0")
    assert wrong.stderr.count(b"\n") == 1
