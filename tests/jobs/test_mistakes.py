"""What a user may get wrong, of every job: one line that names the rule, exit code 2, nothing half-written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runs.folder import RunFolder

LONG, BYTES = "n" * 256, "a\udcff"
"""Names that no file system takes; the second is not UTF-8."""
NAME = "name must be a plain folder name: 1 to 255 bytes of printable UTF-8"
PATH = "a path must have at most 255 bytes between two /"
URI = "a URI must name a bucket, a folder or a file behind ://"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "T.txt").write_text("".join(f"Line {n} of a text about nothing.\n" for n in range(900)))
    return tmp_path


@pytest.mark.parametrize(
    ("job", "options", "rule"),
    [
        *((job, ["--name", name], NAME) for job in ("train", "tune") for name in (LONG, "é" * 128, BYTES)),
        *(("train", ["--storage", uri], URI) for uri in ("s3://", "gs://", "file://", "hdfs:///")),
        ("compare", ["x", "--storage", "gs://"], URI),
        ("runs", ["--storage", "s3://"], URI),
        ("prepare", ["--corpus.path", "T.txt", "--corpus.prepared", "s3://", "--local"], URI),
        ("train", ["--storage", "foo://a/b"], "give a path or a URI that pyarrow knows"),
        ("train", ["--storage", "/dev/null"], "storage must be a folder that can be written, got /dev/null"),
        ("train", ["--storage", "/proc/x"], "storage must be a folder that can be written, got /proc/x"),
        ("train", ["--storage", LONG], PATH),
        ("train", ["--config", LONG], PATH),
        ("runs", ["--storage", "a/" * 3000], PATH),
        ("prepare", ["--corpus.path", LONG], PATH),
        ("generate", [LONG], PATH),
        ("runs", ["--delete", LONG], "no run is called"),
        ("compress", [LONG], "File name too long; name another place"),
        ("train", ["--tracking.uri", "sqlite:////tmp"], "got sqlite:////tmp (unable to open database file): name"),
        ("train", ["--tracking.uri", "sqlite://"], "tracking.uri must name a file, in which runs stay"),
        ("train", ["--tracking.uri", "postgresql://h/db"], "(its driver psycopg is missing): pip install psycopg"),
        ("train", ["--tracking.uri", "mysql://h/db"], "its driver MySQLdb is missing"),
        ("train", ["--tracking.uri", "ftp://h"], "tracking.uri must be an MLflow store that works"),
        ("train", ["--address", "a..b:80"], "no Ray cluster answers at a..b:80"),
        ("train", ["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        ("tune", ["--address", "http://127.0.0.1:1"], "address must be HOST:PORT of a Ray cluster, or auto"),
        ("train", ["--corpus.shard-bytes", "999999999999999"], "corpus.shard_bytes must be 1 to 2147483648"),
        ("prepare", ["--corpus.shard-bytes", "999999999999999"], "corpus.shard_bytes must be 1 to 2147483648"),
        *((job, ["/etc/passwd"], "no run is called '/etc/passwd'") for job in ("generate", "evaluate", "compare")),
        ("generate", [BYTES], "no run is called 'a\\udcff'"),
        ("import_published", ["T.txt"], "cannot be read safely"),
        ("import_published", ["/dev/zero"], "no file /dev/zero"),
    ],
    ids=lambda value: (
        " ".join(value).encode("ascii", "backslashreplace").decode()[:40] if isinstance(value, list) else ""
    ),
)
def test_it_is_one_line(place: Path, call_job: Callable, job: str, options: list[str], rule: str) -> None:
    if job == "train" and "--address" not in options:
        options = [*options, "--local"]
    if job in ("train", "tune"):
        options = [*options, "--corpus.path", "T.txt"]
    done = call_job(job, place, *options)
    assert done.returncode == 2
    said = done.stderr.encode("utf-8", "surrogateescape").decode()
    assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n") and len(said) < 700, said
    assert rule in said
    assert {path.name for path in place.iterdir()} <= {"T.txt", "runs", "data", "mlflow.db"}
    assert not list(place.glob("runs/*")), "nothing is left behind"


@pytest.mark.parametrize("job", ["train", "generate"])
def test_a_deleted_option_is_one_line_and_no_default_of_today(
    tmp_path: Path, past_run: Callable[..., RunFolder], call_job: Callable, job: str
) -> None:
    folder = past_run(tmp_path / "runs" / "one", 2.0)
    stored = json.loads(folder.config_file.read_text())
    del stored["config"]["training"]["beta2"]
    folder.write("config.json", stored)
    done = call_job(job, tmp_path, *(("--resume", "--name", "one") if job == "train" else ("one",)))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "config.json is damaged: training.beta2 is missing; put back what the run had" in done.stderr


@pytest.mark.parametrize(
    ("job", "file", "held"),
    [("train", "config.json", None), ("train", "config.json", "stage.json"), ("tune", "sweep.json", "stage.json")],
)
def test_a_folder_made_but_not_filled_has_one_way_out(
    place: Path, call_job: Callable, job: str, file: str, held: str | None
) -> None:
    """An empty one, as a killed start once left it, is used; another is told in one way, whichever is tried."""
    folder = place / "runs" / "one"
    folder.mkdir(parents=True)
    if held:
        (folder / held).write_text("{}")
    options = [
        "--name",
        "one",
        "--corpus.path",
        "T.txt",
        *(["--local", "--tracking.no-enabled"] if job == "train" else []),
    ]
    start, resume = (call_job(job, place, *options, *more) for more in (["--model.vocab", "100"], ["--resume"]))
    assert (start.returncode, resume.returncode) == (2, 2)
    if held:
        assert (
            f"runs/one is no {'run' if job == 'train' else 'sweep'}, because it has no {file}: take it" in start.stderr
        )
        assert start.stderr == resume.stderr
    else:
        assert "model.vocab must be above every byte of the corpus" in start.stderr, "the name is no matter"
        assert "leave out --resume to start" in resume.stderr


def test_best_and_compare_pass_over_one_bad_run_of_many(
    tmp_path: Path, make_run: Callable[..., None], call_job: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    from pipeline.shown import note

    for name in ("good", "bad", "worse"):
        make_run(tmp_path / "runs", name)
        folder = RunFolder(tmp_path / "runs" / name)
        folder.journal.write_text(json.dumps({"step": 3, "time": 1.0, "validation/bpb": 3.0}) + "\n")
    (tmp_path / "runs" / "bad" / "config.json").write_text("{")
    (tmp_path / "runs" / "worse" / "config.json").unlink()
    os.mkfifo(tmp_path / "runs" / "worse" / "config.json")
    for job, options in (
        ("generate", ["best", "--length", "4", "--prompt", "a"]),
        ("compare", ["--last", "3"]),
        ("compare", ["good", "bad"]),
    ):
        note.cache_clear()
        caplog.clear()
        done = call_job(job, tmp_path, *options)
        assert done.returncode == 0, done.stderr
        assert any("bad is passed over" in said or "bad is left out" in said for said in caplog.messages), (
            job,
            options,
        )


def test_an_output_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, make_run: Callable[..., None], call_job: Callable
) -> None:
    make_run(tmp_path / "runs", "one")
    for output in ("/proc/x", "/dev/null/x", f"{tmp_path}/runs/one/config.json"):
        done = call_job("evaluate", tmp_path, "one", "--data", __file__, "--local", "--output", output)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "output must be a folder" in done.stderr
