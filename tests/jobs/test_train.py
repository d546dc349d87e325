"""The command line of training, as its user types it."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.runs.folder import claim_folder

ROOT = Path(__file__).parents[2]
TINY_FIELDS = {
    "model.dim": 32,
    "model.depth": 2,
    "model.heads": 2,
    "model.factor": 4,
    "model.fixed-rank": 2,
    "model.seq-len": 16,
    "training.lanes": 4,
    "training.steps": 6,
    "training.log-every": 2,
    "training.evaluate-every": 3,
    "training.save-every": 3,
}
TINY = [word for name, value in TINY_FIELDS.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize(
    ("options", "rule"), [(["--corpus.path", "nowhere"], "nothing is at"), (["--name", "old"], "name must be new")]
)
def test_what_can_be_told_at_once_is_told_before_ray_starts(
    tmp_path: Path, options: list[str], rule: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No Ray is at that address, which would be told as well."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "old").mkdir(parents=True)
    for name in ("config.json", "sweep.json"):
        (tmp_path / "runs" / "old" / name).touch()
    for job in ("train", "tune"):
        monkeypatch.setattr(sys, "argv", [f"{job}.py", *options])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(str(ROOT / "jobs" / f"{job}.py"), run_name="__main__")
        assert rule in capfd.readouterr().err


def command(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / "train.py"), *options]


def job(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the job in the folder, as a user does."""
    return subprocess.run(command(*options), cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"Sentence {n} of a text about nothing in particular.\n" for n in range(1000)))
    return path


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["lapptop"], "preset must be one of laptop, dense, senses, h2q, qrlm, h2q-published, got 'lapptop'"),
        (["--model.dim", "100"], "must be a multiple of 4 × model.factor"),
        (["--model.depth", "deep"], "--model.depth"),
        (["--training.steps", "-3"], "training.steps must be at least 1, got -3"),
        (["--model.fixed-rank", "99"], "model.fixed_rank must be at most"),
        (["--workers", "7"], "training.lanes must be a multiple of workers"),
        (["--workers", "2", "--local"], "local trains in this one process: workers must be 1, got 2"),
        (["--growth.enabled"], "growth.enabled needs model.max_rank above"),
        (["--name", "a/b"], "no dot before it, got 'a/b'"),
        (["--corpus.path", "nowhere"], "nowhere"),
        (["--corpus.path", "empty.txt"], "0 bytes"),
        (["--corpus.path", "text.txt", "--model.vocab", "128"], "the train split holds the byte 195: give"),
        (
            ["--corpus.path", "text.txt", "--model.vocab", "512"],
            "model.vocab must be at most 256, the values of a byte, or 260, with markers, got 512",
        ),
        (["--corpus.path", "short.txt"], "must hold one chunk of seq_len"),
        (["--storage", "empty.txt/runs"], "storage must be a folder that can be written"),
        (["--precision", "tf32"], "precision tf32 needs a CUDA device"),
        (["--use-gpu", "yes"], "no CUDA GPU"),
        (["--tracking.uri", "mlruns"], "tracking.uri must be a database or a server"),
        (["--resume"], "no run to resume"),
        (["--resume", "--name", "nobody"], "no run nobody"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line_and_starts_nothing(
    tmp_path: Path, options: list[str], rule: str, call_job: Callable, empty_store: Callable[[Path], str]
) -> None:
    empty_store(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("too short\n" * 20)
    (tmp_path / "text.txt").write_text("enough, and not in ASCII: é\n" * 2000)
    local = [] if "--workers" in options else ["--local"]
    given = ["--corpus.source", "manual"] if "--corpus.path" not in options else []
    done = call_job("train", tmp_path, *options, *local, *given)
    complaint = done.stderr
    said = complaint.strip().splitlines()
    assert done.returncode == 2, complaint
    assert len(said) == 1 and said[0].startswith("error: ") and rule in said[0], complaint
    assert not list((tmp_path / "runs").glob("*")), "nothing is left behind"


@pytest.mark.usefixtures("ray_cluster")
def test_too_few_cpus_is_said_before_anything_starts(tmp_path: Path, text: Path, call_job: Callable) -> None:
    many = ["--training.lanes", "1024", "--workers", "1024", "--tracking.no-enabled"]
    done = call_job("train", tmp_path, *TINY, *many, "--corpus.path", str(text))
    assert done.returncode == 2, done.stderr
    assert "1024 workers need 1024 CPUs, the cluster has" in done.stderr
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.ray  # a program of its own
def test_help_is_told_from_the_docstrings_without_torch(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['train.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'jobs' / 'train.py')!r}, run_name='__main__')\n"
        f"finally: print('HEAVY', sorted({{'torch', 'ray', 'mlflow', 'pyarrow'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("HEAVY []\n"), done.stderr
    for word in ("--model.fixed-rank", "Kronecker terms", "laptop", "h2q-published", "--growth.threshold"):
        assert word in done.stdout


@pytest.mark.ray
@pytest.mark.parametrize("local", [True, False], ids=["local", "ray"])
def test_a_run_says_what_a_person_wants_to_know_and_nothing_else(
    tmp_path: Path, text: Path, local: bool, empty_store: Callable[[Path], str]
) -> None:
    if not local:
        empty_store(tmp_path)  # which the other one makes
    done = job(tmp_path, *TINY, "--corpus.path", "text.txt", "--name", "first", *(["--local"] if local else []))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "noise on a user's screen is a defect"
    for word in ("first: bits per byte", "order-0 entropy", "sha256", "mlflow ui --backend-store-uri sqlite:////"):
        assert word in done.stdout
    for noise in ("WARNING", "INFO", "Traceback", "deprecat"):
        assert noise not in done.stdout
    assert json.loads((tmp_path / "runs" / "first" / "summary.json").read_text())["steps"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mlartifacts", "mlflow.db", "runs", "text.txt"]


@pytest.mark.ray
def test_a_killed_run_is_resumed_by_one_word(
    tmp_path: Path, text: Path, call_job: Callable, empty_store: Callable[[Path], str]
) -> None:
    empty_store(tmp_path)
    often = {"training.steps": 200, "training.log-every": 50, "training.evaluate-every": 400, "training.save-every": 50}
    long = [*TINY, *(word for name, value in often.items() for word in (f"--{name}", str(value)))]
    with subprocess.Popen(command(*long, "--local", "--corpus.path", "text.txt"), cwd=tmp_path) as running:
        while not list(tmp_path.glob("runs/*/checkpoints/step-*/commit.json")):
            time.sleep(0.01)
            assert running.poll() is None
        os.kill(running.pid, signal.SIGKILL)
    done = call_job("train", tmp_path, "--resume", "--training.steps", "201")
    assert done.returncode == 0, done.stderr
    assert "continuing at step" in done.stdout
    [folder] = (tmp_path / "runs").iterdir()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(0, 201, 50), 201]
    done = call_job("train", tmp_path, "h2q", "--resume")
    assert done.returncode == 2 and "whose preset is laptop, not h2q" in done.stderr


def test_a_new_run_takes_the_faster_precision_and_a_sweep_the_one_that_compares() -> None:
    from jobs import train, tune

    assert train.configure(["dense"])[1].precision == "auto" and tune.configure(["dense"])[1].run.precision == "fp32"
    assert train.configure(["--precision", "bf16"])[1].precision == "bf16"


def test_resume_keeps_the_number_of_threads_unless_there_are_other_workers(tmp_path: Path) -> None:
    from jobs.train import configure

    storage = str(tmp_path)
    claim_folder(tmp_path, RunConfig(name="one", storage=storage, threads=3), "laptop", "")
    for options, threads in (([], 3), (["--threads", "2"], 2), (["--workers", "2"], None)):
        assert configure(["--resume", "--storage", storage, *options])[1].threads == threads


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["--training.lanes", "12"], ["--accumulate", "3"]),
        (["--model.max-rank", "3"], ["--growth.enabled"]),
    ],
    ids=["accumulate", "growth"],
)
def test_options_at_resume_go_over_those_of_the_run(tmp_path: Path, first: list[str], then: list[str]) -> None:
    from jobs.train import configure

    folder = ["--name", "one", "--storage", str(tmp_path)]
    with pytest.raises(UserError):
        configure([*TINY, *folder, *then])
    preset, config = configure(["laptop", *TINY, *first, *folder])
    claim_folder(tmp_path, config, preset, "")
    resumed = configure(["--resume", *folder, *then])[1]
    assert configure([*TINY, *first, *folder, "--resume", *then])[1] == resumed
    assert (resumed.training.lanes, resumed.model.max_rank) == (config.training.lanes, config.model.max_rank)
