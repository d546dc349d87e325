"""Command lines: a config and the options that make it are the same thing."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.cli import options_of, parse, run
from pipeline.config import PRESETS, RunConfig


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


def test_a_wrong_option_is_one_line_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"--model\.dmi.*--model\.dim") as caught:
        parse(RunConfig, ["--model.dmi", "64"], default=RunConfig(), prog="train")
    assert "\n" not in str(caught.value) and "│" not in str(caught.value)


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


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: object) -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"
