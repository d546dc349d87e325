"""The command that lets a trained model write, as a user calls it."""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from h2q.errors import UserError
from jobs.generate import GenerateOptions, begin, show_numbers, show_prompt
from pipeline.runs.checkpoint import list_checkpoints
from pipeline.senses.sounds import Sound, write_sound

JOB = Path(__file__).parents[2] / "jobs" / "generate.py"

Job = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "runs").mkdir()
    make_run(folder / "runs", "any-bytes")
    make_run(folder / "runs", "hundred", vocab=100)
    make_run(folder / "runs", "damaged")
    for path in list_checkpoints(folder / "runs" / "damaged" / "checkpoints"):
        (path / "model.safetensors").write_bytes(b"no longer")
    make_run(folder / "runs", "sounds", corpus="bytes")
    for name, mixer in (("remembering", "state"), ("both", "both")):
        make_run(folder / "runs", name, mixer=mixer)
    return folder


@pytest.fixture
def job(folder: Path, call_job: Job) -> Job:
    def call(*args: str | bytes, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return call_job("generate", folder, *map(os.fsdecode, args), given=given, text=False)

    return call


def test_bytes_as_they_are_and_the_same_bytes_as_safe_text(job):
    raw = job("any-bytes", "--prompt", "The ", "--length", "300", "--seed", "5", "--bytes")
    assert (raw.returncode, raw.stderr, len(raw.stdout)) == (0, b"", 300)
    text = job("any-bytes", "--prompt", "The ", "--length", "300", "--seed", "5")
    assert (text.returncode, text.stderr) == (0, b"")
    # The model is untrained: escapes, half characters and all.
    shown = raw.stdout.decode("utf-8", errors="replace")
    assert any(not letter.isprintable() and letter != "\n" for letter in shown)
    expected = "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in shown)
    assert text.stdout.decode() == "⟦The ⟧" + expected + "\n"


def test_without_a_prompt_it_begins_behind_a_line_end_and_says_so(job):
    given = job("any-bytes", "--prompt", "\n", "--length", "40")
    alone = job("any-bytes", "--length", "40")
    assert alone.returncode == 0
    assert alone.stdout == given.stdout.removeprefix("⟦\n⟧".encode())
    assert alone.stderr == b"any-bytes writes behind a line end; --prompt TEXT gives it another start\n"
    newest = job("--length", "4", "--bytes")
    assert newest.returncode == 0 and len(newest.stdout) == 4
    assert b" writes behind the byte 0; " in newest.stderr


def test_of_a_corpus_of_bytes_come_bytes_and_nothing_is_said_of_text(job):
    written = job("sounds", "--length", "40", "--prompt", b"\xff\x01\xfe")
    assert (written.returncode, written.stderr, len(written.stdout)) == (0, b"", 40)


def test_on_a_terminal_bytes_are_numbers(capsys):
    assert show_numbers(iter(range(18))) == 18
    assert capsys.readouterr().out == "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f\n10 11 \n"


def test_on_a_terminal_the_prompt_is_dim(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_prompt("The \x1b[2J")
    assert capsys.readouterr().out == "\x1b[2mThe \ufffd[2J\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    show_prompt("The ")
    assert capsys.readouterr().out == "⟦The ⟧"


def test_standard_input_may_hold_any_bytes_and_options_take_effect(job):
    options = ("any-bytes", "--prompt", "-", "--length", "40", "--bytes")
    long = bytes(range(256))
    cuts = (["--top-k", "1"], ["--temperature", "0", "--seed", "9"], ["--min-p", "1", "--top-p", "0.9"])
    likeliest = {job(*options, *cut, given=long).stdout for cut in cuts}
    assert [len(written) for written in likeliest] == [40]


def test_it_ends_behind_the_stop_string(job):
    options = ("any-bytes", "--prompt", "a", "--length", "200", "--bytes")
    free = job(*options).stdout
    letter = next(bytes((byte,)) for byte in free if 32 < byte < 127)
    assert job(*options, "--stop", letter).stdout == free[: free.index(letter) + 1]


@pytest.mark.ray
def test_a_reader_that_leaves_and_an_interruption_end_it_cleanly(make_run, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    make_run(folder, "endless")
    command = [sys.executable, str(JOB), "endless", "--prompt", "a", "--length", "100000000"]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    for end, code in ((lambda p: p.stdout.close(), 0), (lambda p: p.send_signal(signal.SIGINT), 130)):
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell lets what it runs in the background ignore Ctrl-C; tests may run there, and hand that on.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert len(process.stdout.read(20)) == 20
            end(process)
            if code:
                process.stdout.read()
            assert process.wait(60) == code
            assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("any-byte", "--prompt", "a"), "any-bytes"),
        (("damaged", "--prompt", "a"), "damaged"),
        (("any-bytes", "--prompt", ""), "the prompt is empty"),
        (("any-bytes", "--prompt", "-"), "standard input held no byte"),
        (("any-bytes", "--prompt", b"ab\xff"), "not valid UTF-8: byte 0xff at offset 2"),
        (("any-bytes", "--prompt", "a", "--temperature", "-1"), "temperature must be"),
        (("any-bytes", "--prompt", "a", "--top-p", "0"), "top-p must be"),
        (("any-bytes", "--prompt", "a", "--top-p", "1.1"), "top-p must be"),
        (("any-bytes", "--prompt", "a", "--min-p", "-0.1"), "min-p must be"),
        (("any-bytes", "--prompt", "a", "--top-k", "0"), "top-k must be"),
        (("any-bytes", "--prompt", "a", "--length", "-1"), "length must be"),
        (("any-bytes", "--prompt", "a", "--stop", ""), "stop must"),
        (("any-bytes", "--prompt", "a", "--top-k", "many"), "--top-k"),
        (("hundred", "--prompt", "abx"), "0 to 99, got byte 120 at offset 2"),
    ],
)
def test_bad_input_is_one_line(job, args, message):
    done = job(*args)
    assert done.returncode == 2 and done.stdout == b""
    error = done.stderr.decode()
    assert error.startswith("error: ") and message in error and len(error.strip().splitlines()) == 1


def test_invalid_utf8_is_taken_as_bytes_where_bytes_are_asked_for(job):
    done = job("any-bytes", "--prompt", b"ab\xff", "--length", "5", "--bytes")
    assert done.returncode == 0 and len(done.stdout) == 5


@pytest.mark.parametrize("run", ["remembering", "both"])
def test_a_state_that_is_saved_goes_on_as_if_it_had_not_stopped(job, folder, run):
    whole = job(run, "--prompt", "The ", "--length", "50", "--seed", "3", "--bytes")
    first = job(run, "--prompt", "The ", "--length", "20", "--seed", "3", "--bytes", "--save-state", "state")
    second = job(run, "--length", "30", "--bytes", "--from-state", "state", "--save-state", "state")
    assert (first.stderr, second.stderr, second.returncode) == (b"", b"", 0)
    assert first.stdout + second.stdout == whole.stdout
    shown = job(run, "--length", "3", "--prompt", "And ", "--from-state", "state", "--seed", "9")
    assert shown.stdout.startswith("⟦And ⟧".encode())


def test_a_state_that_cannot_be_is_refused_in_one_line(job, folder):
    assert job("remembering", "--length", "3", "--bytes", "--save-state", "mine").returncode == 0
    (folder / "text").write_text("no state")
    for args, rule in (
        (("both", "--from-state", "mine"), "the state is of another model: its keys_and_values is missing"),
        (("any-bytes", "--from-state", "mine"), "model.mixer is attention"),
        (("any-bytes", "--save-state", "new"), "model.mixer is attention"),
        (("remembering", "--from-state", "text"), "text is no state that --save-state wrote"),
        (("remembering", "--from-state", "absent"), "cannot read absent: No such file"),
        (("remembering", "--save-state", "nowhere/state"), "needs a folder that is there"),
        (("remembering", "--save-state", "runs"), "is a folder: name a file in it"),
    ):
        refused = job(*args)
        assert refused.returncode == 2 and refused.stdout == b"", args
        assert rule in refused.stderr.decode() and refused.stderr.count(b"\n") == 1, refused.stderr
    assert not (folder / "new").exists()


def test_where_other_programs_work_its_threads_sleep_while_they_wait(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.threads._busy_cores", lambda: 1.5)
    monkeypatch.setenv("GOMP_SPINCOUNT", "20000")
    assert job("any-bytes", "--length", "1", "--bytes").returncode == 0
    assert os.environ["GOMP_SPINCOUNT"] == "0"


def test_a_beginning_that_its_file_could_not_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    with (tmp_path / "nine.wav").open("wb") as file:
        write_sound(Sound(8000, np.zeros((4, 9), np.int16)), file)
    for out in ("a.flac", "a.FLAC", "a.wav"):
        options = GenerateOptions(prompt=str(tmp_path / "nine.wav"), out=out)
        refused = nullcontext() if out == "a.wav" else pytest.raises(UserError, match=r"9 channels.*--out FILE\.wav")
        with refused:
            begin(options, "audio", "ulaw")
