"""The command: what it prints, what it reuses, and one clear line with exit code 2 for every mistake."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def prepare(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "prepare.py"), *args],
        env=os.environ | env | {"COLUMNS": "150"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.ray
def test_with_ray_it_prints_what_it_prepared_and_then_that_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A line of text.\n" * 1000)
    args = ["--corpus.path", str(tmp_path / "text.txt"), "--corpus.prepared", str(tmp_path / "data")]
    done = prepare(*args)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "data").iterdir()
    assert "16,000 of 16,000 bytes" in done.stdout and f"folder {folder}" in done.stdout
    assert "order-0" in done.stdout and "cut from text.txt at line ends" in done.stdout
    again = prepare(*args, "--local")
    assert again.returncode == 0 and "already prepared in" in again.stdout


@pytest.mark.ray  # a program of its own
def test_help_names_every_option_of_a_corpus_and_imports_nothing_heavy() -> None:
    script = f"""
import runpy, sys
sys.argv[1:] = ["--help"]
try:
    runpy.run_path({str(ROOT / "jobs" / "prepare.py")!r}, run_name="__main__")
finally:
    print([name for name in ("torch", "ray", "pyarrow", "datasets", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for option in ("--corpus.path", "--corpus.kind", "--corpus.invalid", "--corpus.shard-bytes", "--corpus.verify"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--corpus.path", "{0}/missing"], "nothing is at {0}/missing"),
        (["--corpus.path", "{0}/empty.txt"], "found 0 bytes at {0}/empty.txt"),
        (["--corpus.path", "{0}/bad.txt"], "bad.txt at byte 4 is not valid UTF-8"),
        (["--corpus.path", "{0}/text.txt", "--corpus.prepared", "{0}/empty.txt/x"], "choose another --corpus.prepared"),
        (["--corpus.source", "path"], "give --corpus.path PATH"),
        (["--corpus.holdout", "0.7"], "corpus.holdout must be at least 0 and below 0.5, got 0.7"),
        (["--corpus.shard-bytes", "0"], "since a whole shard is held in memory, got 0"),
        (["--corpus.kind", "pictures"], "pictures"),
        (["--corpus.path", "{0}/table.jsonl"], "no text in a column 'text'; its columns are words"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, args: list[str], said: str, call_job: Callable) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "text.txt").write_text("text " * 99)
    (tmp_path / "bad.txt").write_bytes(b"text\xff" + b"text" * 99)
    (tmp_path / "table.jsonl").write_text('{"words": "text"}\n' * 9)
    prepared = ["--corpus.prepared", str(tmp_path / "data")] if "--corpus.prepared" not in args else []
    done = call_job("prepare", tmp_path, "--local", *(arg.format(tmp_path) for arg in args), *prepared)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and said.format(tmp_path) in done.stderr, done.stderr


@pytest.mark.ray  # a program of its own
@pytest.mark.parametrize(("path", "said"), [("missing", "nothing is at"), ("*.md", "no file is at")])
def test_what_is_missing_is_told_before_ray_starts(tmp_path: Path, path: str, said: str) -> None:
    done = prepare(
        "--corpus.path", f"{tmp_path}/{path}", "--corpus.prepared", f"{tmp_path}/d", RAY_ADDRESS="127.0.0.1:1"
    )
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
