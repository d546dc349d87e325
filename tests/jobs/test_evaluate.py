"""The command line of evaluation, on a run that was really trained."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "fixed-rank": 2, "seq-len": 16}
STEPS = {"lanes": 4, "steps": 6, "evaluate-every": 6, "save-every": 6}

Call = Callable[..., tuple[int, str, str]]


def job(folder: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A job in a process of its own, as a user starts it."""
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *options]
    env = os.environ | {"COLUMNS": "120"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=env)


@pytest.fixture
def evaluate(place: Path, monkeypatch: pytest.MonkeyPatch, call_job: Callable) -> Call:
    """The same in this process: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*options: str, folder: Path = place, pictures: bool = False) -> tuple[int, str, str]:
        done = call_job("evaluate", folder, *options, pictures=pictures)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], str]) -> Path:
    """A folder with a run `one`, which its user works in."""
    folder = tmp_path_factory.mktemp("place")
    empty_store(folder)
    (folder / "text.txt").write_text(
        "".join(f"Sentence {n} of a text about nothing in particular.\n" for n in range(400))
    )
    sizes = [word for name, value in SMALL.items() for word in (f"--model.{name}", str(value))]
    steps = [word for name, value in STEPS.items() for word in (f"--training.{name}", str(value))]
    train = runpy.run_path(str(ROOT / "jobs" / "train.py"))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("pipeline.training.driver.draw", lambda *run, **what: None)  # takes longer than the run
        assert not train(
            [*sizes, "--model.mixer", "attention", *steps, "--local", "--corpus.path", "text.txt", "--name", "one"]
        )
    (folder / "note.txt").write_text("Wörter und 12 Zahlen.\n" * 20)
    (folder / "empty.txt").touch()
    (folder / "single.txt").write_text("x")
    return folder


def result(place: Path, label: str) -> dict:
    return json.loads((place / "runs" / "one" / "evaluation" / f"{label}.json").read_text())


@pytest.mark.ray
def test_side_by_side_it_finds_the_figure_of_training_and_logs_it_once(place: Path, evaluate: Call) -> None:
    from mlflow.tracking import MlflowClient

    done = job(place, "evaluate", "latest", "--stride", "16", "--workers", "2")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for word in ("one: bits per byte of test split", "xz -9e", "letters", "side by side", "logged to MLflow"):
        assert word in done.stdout
    assert evaluate("one", "--stride", "16", "--local")[0] == 0
    path = place / "runs" / "one" / "evaluation" / "test-sliding-window-16-stride-16.json"
    found = json.loads(path.read_text())
    summary = json.loads((place / "runs" / "one" / "summary.json").read_text())
    assert found["bpb"] == pytest.approx(summary["test_bpb"], rel=1e-6)
    assert found["references"]["order-0 entropy"] == summary["references"]["test"]["order0"]
    assert found["references"]["xz -9e"] == summary["references"]["test"]["xz"]
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    run_id = json.loads((place / "runs" / "one" / "mlflow.json").read_text())["run_id"]
    # Once, for two workers and this process agree bit for bit.
    [metric] = client.get_metric_history(run_id, "evaluation/test-sliding-window-16-stride-16/bpb")
    assert (metric.step, metric.value) == (6, found["bpb"])
    assert client.get_run(run_id).info.status == "FINISHED"
    logged = {file.path for file in client.list_artifacts(run_id, "evaluation")}
    assert {f"evaluation/test-sliding-window-16-stride-16.{kind}" for kind in ("json", "png")} <= logged


def test_a_window_slides_over_a_file_and_the_rest_is_left_alone(place: Path, evaluate: Call) -> None:
    before = sorted(path.name for path in place.iterdir())
    options = ("--local", "--data", "note.txt", "--stride", "4", "--tracking.no-enabled")
    code, said, wrong = evaluate("one", *options, pictures=True)
    assert code == 0 and wrong == ""
    assert "multi-byte UTF-8" in said and "every 4" in said and "MLflow" not in said
    [path] = (place / "runs" / "one" / "evaluation").glob("note.txt-*-sliding-window-16-stride-4.json")
    found = json.loads(path.read_text())
    assert found["bytes"] == 460 == sum(kind["bytes"] for kind in found["classes"].values()) + 1
    assert len(found["position_bytes"]) == 16 and min(found["position_bytes"]) > 100, "every position, many times"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_disk_that_is_full_is_named_by_the_folder_on_it(place: Path, evaluate: Call, tmp_path: Path) -> None:
    (tmp_path / "test-sliding-window-16-stride-16.json").symlink_to("/dev/full")
    options = ("--stride", "16", "--local", "--no-compressors", "--tracking.no-enabled", "--output", str(tmp_path))
    code, _, wrong = evaluate("one", *options)
    said = f"error: cannot write {tmp_path}: No space left on device; name a folder with --output\n"
    assert (code, wrong) == (2, said)


def test_lanes_are_scored_as_they_were_read(place: Path, evaluate: Call) -> None:
    code, said, _ = evaluate("one", "--mode", "lanes", "--local", "--tracking.no-enabled", "--no-compressors")
    assert code == 0 and "in 4 lanes" in said and "xz" not in said


def test_a_learner_goes_once_through_a_file(place: Path, evaluate: Call) -> None:
    shown = []
    for options in (["one"], ["one", "--fresh"], ["one", "--lanes", "1", "--learning-rate", "0.01"]):
        code, said, wrong = evaluate(
            *options, "--mode", "prequential", "--data", "note.txt", "--output", "out", "--tracking.no-enabled"
        )
        assert code == 0 and wrong == "" and "bits per byte so far" in said
        [path] = (place / "out").glob("*.json")
        found = json.loads(path.read_text())
        assert found["curve"][-1]["bytes"] == 460 and found["curve"][-1]["bpb"] == found["bpb"]
        rows = list(csv.DictReader(path.with_suffix(".csv").open()))
        assert float(rows[-1]["bpb"]) == found["bpb"]
        assert float(rows[-1]["xz_bpb"]) == pytest.approx(found["references"]["xz -9e"], rel=0.05)
        assert path.with_suffix(".png").exists()
        shown.append(found["bpb"])
        shutil.rmtree(place / "out")
    assert len(set(shown)) == 3


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ([], "name the run to evaluate"),
        (["on"], "no run is called 'on'"),
        (["one", "--data", "nothing.txt"], "no file"),
        (["one", "--data", "empty.txt"], "must not be empty, found 0 bytes"),
        (["one", "--data", "single.txt"], "must hold at least 2 bytes to be scored, found 1"),
        (["one", "--data", "."], "is a folder: name a file in it"),
        (["one", "--window", "17"], "window must be from 1 to the model's 16 positions"),
        (["one", "--stride", "17"], "stride must be from 1 to the window's 16 bytes, got 17"),
        (["one", "--stride", "0"], "stride must be at least 1, got 0"),
        (["one", "--window", "8", "--stride", "9"], "stride must be at most the window's 8 bytes, got 9"),
        (["one", "--local", "--workers", "2"], "workers must be 1, got 2"),
        (["one", "--lanes", "4"], "use --mode lanes"),
        (["one", "--learning-rate", "0.1"], "add --mode prequential"),
        (["one", "--mode", "prequential", "--learning-rate", "-1"], "learning_rate must be positive, got -1.0"),
        (["one", "--mode", "prequential", "--data", "single.txt"], "found 1"),
        (["--preset", "laptob", "--mode", "prequential"], "preset must be one of laptop"),
        (["--preset", "laptop", "--mode", "prequential"], "give --data FILE"),
        (["one", "--split", "tests"], "--split"),
        (["one", "--precision", "tf32", "--local"], "precision tf32 needs a CUDA device"),
        (["one", "--use-gpu", "yes", "--local"], "has no CUDA GPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line(evaluate: Call, options: list[str], rule: str) -> None:
    code, _, wrong = evaluate(*options)
    assert code == 2
    assert len(wrong.splitlines()) == 1 and wrong.startswith("error: ") and rule in wrong


@pytest.mark.usefixtures("ray_cluster")
def test_too_few_cpus_is_one_line(evaluate: Call) -> None:
    code, _, wrong = evaluate("one", "--workers", "999")
    assert code == 2 and len(wrong.splitlines()) == 1 and "999 workers need 999 CPUs" in wrong


def test_a_damaged_checkpoint_is_named(place: Path, tmp_path: Path, evaluate: Call) -> None:
    shutil.copytree(place / "runs", tmp_path / "runs")
    [checkpoint] = (tmp_path / "runs" / "one" / "checkpoints").iterdir()
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.write(b"damage")
    code, _, wrong = evaluate("one", "--local", "--data", str(place / "note.txt"), folder=tmp_path)
    assert code == 2 and len(wrong.splitlines()) == 1
    assert "model.safetensors: its sha256 is not the one that was written" in wrong


@pytest.mark.ray  # a program of its own
def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['evaluate.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'jobs' / 'evaluate.py')!r}, run_name='__main__')\n"
        f"finally: print('HEAVY', sorted({{'torch', 'ray', 'mlflow', 'pyarrow', 'numpy'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("HEAVY []\n"), done.stderr
    for word in ("--stride", "prequential", "best", "--no-compressors"):
        assert word in done.stdout


@pytest.mark.ray  # a program of its own
@pytest.mark.parametrize(
    ("job", "options"), [("evaluate", ("nobody",)), ("tune", ("--corpus.path", "nowhere"))], ids=lambda value: value[0]
)
def test_what_is_not_there_is_said_before_libraries_are_loaded(tmp_path: Path, job: str, options: list[str]) -> None:
    code = f"import sys, runpy\nmain = runpy.run_path({str(ROOT / 'jobs' / job) + '.py'!r})['main']\n"
    code += f"try:\n    main({list(options)!r})\nexcept ValueError as error:\n"
    code += "    print(error, *sorted({'torch', 'ray', 'mlflow', 'matplotlib'} & sys.modules.keys()), sep='|')"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert "|" not in done.stdout and ("nobody" in done.stdout or "nowhere" in done.stdout), done.stdout + done.stderr


def test_a_state_is_carried_unless_windows_are_asked_for(
    evaluate: Call, tmp_path: Path, make_run: Callable[..., None]
) -> None:
    make_run(tmp_path / "runs", "remembering", mixer="state")
    make_run(tmp_path / "runs", "attending")
    (tmp_path / "text").write_bytes(bytes(range(256)) * 3)
    scored = ["--data", "text", "--local", "--no-compressors", "--tracking.no-enabled"]

    def told(*options: str) -> dict:
        code, out, err = evaluate("remembering", *scored, *options, folder=tmp_path)
        assert code == 0, err
        [path] = [line for line in out.splitlines() if line.endswith(".json")]
        return json.loads(Path(path).read_text()) | {"out": " ".join(out.split())}

    alone, cut = told(), told("--lanes", "3")
    assert alone["mode"] == "carried" and "the state carried from the first byte to the last" in alone["out"]
    assert cut["lanes"] == 3 and "in 3 lanes, whose cold starts cost" in cut["out"]
    assert told("--mode", "sliding", "--window", "100")["window"] == 100
    assert told("--stride", "8")["mode"] == "sliding"
    online = told("--mode", "prequential", "--lanes", "2")
    assert online["lanes"] == 2 and 0 < online["bpb"] < 20
    for name, options, rule in (
        ("attending", ["--mode", "carried"], "there is no state to carry: model.mixer of attending is attention"),
        ("attending", ["--window", "17"], "window must be from 1 to the model's 16 positions"),
        ("remembering", ["--mode", "carried", "--window", "8"], "leave out --window and --stride, got 8 and None"),
        ("remembering", ["--mode", "carried", "--stride", "8"], "leave out --window and --stride, got None and 8"),
        ("remembering", ["--mode", "prequential", "--stride", "8"], "stride must be the window's 16 bytes, got 8"),
    ):
        code, _, err = evaluate(name, *scored, *options, folder=tmp_path)
        assert code == 2 and rule in err and err.count("\n") == 1, err
    code, _, err = evaluate("remembering", "--data", "text", "--workers", "2", folder=tmp_path)
    assert code == 2 and "one stream is scored by one worker: workers must be 1, got 2" in err


def test_too_little_data_for_the_lanes_of_a_state_is_told_before_anything_is_scored(
    tmp_path: Path, make_run: Callable[..., None], call_job: Callable
) -> None:
    make_run(tmp_path / "runs", "carrying", mixer="state")
    options = ["carrying", "--local", "--no-compressors", "--tracking.no-enabled", "--data"]
    for size, lanes, code in ((3000, 5000, 2), (9, 5, 2), (10, 5, 0)):
        (tmp_path / "data").write_bytes(b"a" * size)
        done = call_job("evaluate", tmp_path, *options, "data", "--lanes", str(lanes))
        assert done.returncode == code, done.stderr
        rule = f"error: the data must hold 2 bytes for each of {lanes} lanes, found {size}: lower --lanes\n"
        assert done.stderr == (rule if code else "")
