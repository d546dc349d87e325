"""The way out of every job: one line, an exit code, no traceback; also where output cannot be written to."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from h2q.errors import Terminated
from pipeline.cli import parse, run
from pipeline.config import RunConfig
from pipeline.guard import guarded

JOB = Path(__file__).parents[2] / "jobs" / "compare.py"


def call(*options: str, redirect: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    """The help of a small job, in a process of its own, its output redirected by a shell."""
    command = f'"$@" {redirect}'
    arguments = ["bash", "-c", f"set -o pipefail; {command}", "job", sys.executable, str(JOB), *options]
    return subprocess.run(arguments, env=os.environ | variables, capture_output=True, text=True, check=False)


@pytest.mark.ray  # a program of its own
def test_a_full_output_is_said_and_a_reader_that_leaves_is_not() -> None:
    full = call("--help", redirect="> /dev/full")
    assert (full.returncode, full.stderr) == (1, "error: cannot write to standard output: No space left on device\n")
    left = call("--help", redirect="| head -c 1")
    assert (left.returncode, left.stderr) == (0, "")
    closed = call("--help", redirect=">&-")
    assert (closed.returncode, closed.stderr) == (0, "")


def test_an_input_that_was_closed_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "argv", ["job"])
    assert guarded(lambda _: len(sys.stdin.buffer.read()) + len(sys.stdin.read())) == 0
    sys.stdin.close()


@pytest.mark.ray  # a program of its own
@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_what_an_encoding_lacks_is_no_fault(variables: dict[str, str]) -> None:
    helped = call("--help", **variables)
    assert (helped.returncode, helped.stderr) == (0, "") and "--storage" in helped.stdout


def ended_by(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple:
    def main(_: object) -> int:
        raise error

    monkeypatch.setattr(sys, "argv", ["job"])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [RuntimeError("1st\n2nd http://u:hunter2@h"), MemoryError(), RecursionError("deep"), OSError(5, "I/O")],
)
def test_what_nobody_foresaw_is_one_line_and_a_file(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ended_by(error, monkeypatch, capsys)
    assert code == 1 and said.startswith(f"error: {type(error).__name__}: ") and said.count("\n") == 1
    kept = Path(re.search(r"all of it in (\S+)\)", said)[1])  # type: ignore[index]
    text = kept.read_text()
    kept.unlink()
    assert "Traceback" in text and "raise error" in text and "hunter2" not in text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENAMETOOLONG, errno.ELOOP])
def test_a_place_that_cannot_be_used_is_the_users_affair(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ended_by(OSError(number, os.strerror(number), "n" * 5000), monkeypatch, capsys)
    assert code == 2 and said.count("\n") == 1 and len(said) < 500
    assert said.startswith("error: cannot use nnn") and os.strerror(number) in said


def test_a_message_cannot_forge_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from h2q.errors import UserError

    code, said = ended_by(UserError("no file a\nerror: b\x1b[2J\u2028c"), monkeypatch, capsys)
    assert (code, said) == (2, "error: no file a error: b\ufffd[2J\ufffdc\n")


def test_options_that_may_be_meant_stand_one_to_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "3", "--zzz\nerror: forged"])
    assert guarded(lambda args: parse(RunConfig, args, default=RunConfig(), prog="train").workers) == 2
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert (first, second) == ("error: there is no option --lr; likely:", "  --training.learning-rate")
    assert last == "there is no option --zzz error: forged; --help lists all"


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_by(KeyboardInterrupt(), monkeypatch, capsys) == (130, "error: interrupted\n")
    assert ended_by(Terminated(), monkeypatch, capsys) == (143, "error: terminated\n")
