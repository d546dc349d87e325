"""Sweeps as their user starts them: real trials on Ray Tune, judged through MLflow's own client."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

ROOT = Path(__file__).parents[2]


def words(text: str) -> list[str]:
    return text.split()


TINY = words(
    "--model.dim 32 --model.depth 2 --model.heads 2 --model.factor 4 --model.fixed-rank 2 --model.seq-len 16 "
    "--training.lanes 4 --training.steps 300 --training.log-every 10 --training.warmup 5 --corpus.path text.txt"
)
LEARNING_RATES = words("--search.space training.learning_rate=1e-2,1e-6,1e30,1e-7 --search.algorithm grid")


def command(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / "tune.py"), *options]


def job(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the job in the folder, as a user does."""
    return subprocess.run(command(*options), cwd=folder, capture_output=True, text=True, timeout=550, check=False)


def write_text(folder: Path) -> None:
    lines = (f"Sentence {n} of a text about nothing in particular.\n" for n in range(1000))
    (folder / "text.txt").write_text("".join(lines))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_text(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["lapptop"], "preset must be one of laptop"),
        (["--search.space"], "--search.space"),
        (["--search.space", "model.fixed_rnk=2"], "no field model.fixed_rnk to search; nearest: model.fixed_rank"),
        (["--search.space", "training.axiom_lambda=log:0:1"], "needs bounds above 0 for a logarithm, got 0"),
        (["--search.algorithm", "grid"], "a grid needs listed values, training.axiom_lambda has any number"),
        (["--search.trials", "0"], "search.trials must be at least 1"),
        (["--search.grace", "1.5"], "search.grace must be a share above 0 and below 1, got 1.5"),
        (["--local"], "a sweep runs its trials on Ray: leave out --local"),
        (["--estimate"], "estimate is of one run: leave out --estimate"),
        (["--precision", "auto"], "a sweep compares trials in one precision: --precision fp32, got auto"),
        (["--wait", "9"], "a sweep takes the cluster as it is: leave out --wait, got 9"),
        pytest.param(["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1", marks=pytest.mark.ray),
        (["--resume"], "no sweep to resume"),
        (["--resume", "--name", "nobody"], "no sweep nobody"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line_and_starts_nothing(
    tmp_path: Path, options: list[str], rule: str, call_job: Callable
) -> None:
    done = call_job("tune", tmp_path, *options, "--corpus.source", "manual")
    complaint = done.stderr
    said = complaint.strip().splitlines()
    assert done.returncode == 2, complaint
    assert len(said) == 1 and said[0].startswith("error: ") and rule in said[0], complaint
    assert not list((tmp_path / "runs").glob("*")), "nothing is left behind"


@pytest.mark.usefixtures("ray_cluster")
def test_what_the_cluster_cannot_hold_and_what_no_model_can_be_is_said_before_the_start(
    text: Path, call_job: Callable
) -> None:
    done = call_job("tune", text, *TINY, "--search.concurrency", "4000")
    assert done.returncode == 2 and "must be at most the" in done.stderr and "got 4000" in done.stderr
    done = call_job("tune", text, *TINY, "--search.space", "model.fixed_rank=98,99")
    assert done.returncode == 2 and "holds no valid configuration: model.fixed_rank must be at most" in done.stderr
    assert not list((text / "runs").glob("*"))


def runs_of(folder: Path, name: str) -> tuple[MlflowClient, Run, list[Run]]:
    """MLflow's parent run of the sweep, and its children in the order of their names."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("h2q")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if run.info.run_name == name]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(runs) == 1 + len(children), "nothing else, and nothing twice"
    return client, parent, sorted(children, key=lambda run: run.info.run_name or "")


def described(run: Run) -> str:
    return run.data.tags["mlflow.note.content"]


def steps_of(client: MlflowClient, run: Run, metric: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


@pytest.mark.timeout(900)
@pytest.mark.ray
def test_a_sweep_of_four_trials_two_at_a_time(text: Path, call_job: Callable) -> None:
    """One finishes, one is pruned, one fails: everything is told, kept and tracked, and the best is registered."""
    done = job(
        text, *TINY, *LEARNING_RATES, "--name", "s", "--search.concurrency", "2", "--tracking.register", "best-of-s"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "noise on a user's screen is a defect"
    for word in (
        "s: search space",
        "2 trials at a time, 1 CPU each",
        "ASHA may stop a trial after 60 of 300 steps",
        "s: validation bits per byte",
        "training diverged 4 times",
        "train the best",
        "mlflow ui --backend-store-uri",
        str(text / "runs" / "s" / "plots"),
    ):
        assert word in done.stdout, done.stdout
    for noise in ("WARNING", "INFO", "Traceback", "deprecat", "TrialTraining"):
        assert noise not in done.stdout, done.stdout
    assert "register it as it is" not in done.stdout, "it is registered"
    assert "mlflow.db" in {path.name for path in text.iterdir()}
    assert not (text / "runs" / "s" / "ray").exists()

    client, parent, children = runs_of(text, "s")
    assert len({run.data.tags["mlflow.runColor"] for run in children}) == 4, "no two trials look alike"
    told = {run.info.run_name: (run.info.status, run.data.tags["state"]) for run in children}
    assert told["s-01"] == ("FINISHED", "finished")
    assert told["s-03"] == ("FAILED", "failed") and "Error: training diverged" in described(children[2])
    assert told["s-04"] == ("KILLED", "pruned") and "Pruned: " in described(children[3])
    assert [run.data.params["training.learning_rate"] for run in children] == ["0.01", "1e-06", "1e+30", "1e-07"]
    best = children[0]
    assert steps_of(client, best, "validation/bpb") == [60, 120, 180, 240, 300]
    assert steps_of(client, best, "growth/rank") == list(range(0, 300, 10))
    assert best.data.metrics["validation/bpb"] == parent.data.metrics["validation/bpb"]
    assert max(steps_of(client, children[3], "train/bpb")) < 300, "a pruned trial does not train to its end"
    assert parent.info.status == "FINISHED" and parent.data.params["space.training.learning_rate"]
    assert parent.data.metrics["trials/failed"] == 1 and "jobs/tune.py" in parent.data.tags["mlflow.source.name"]
    for wanted in ("Best: **", "with learning_rate 0.01", "python jobs/train.py", "Registered: `models:/best-of-s/1`"):
        assert wanted in described(parent)
    [dataset] = parent.inputs.dataset_inputs if parent.inputs else []
    assert dataset.dataset.digest == parent.data.tags["corpus_sha256"][:16]
    times = [json.loads(line)["time"] for line in (text / "runs/s/s-01/metrics.jsonl").read_text().splitlines()]
    assert best.info.start_time <= 1000 * times[0] and (best.info.end_time or 0) >= int(1000 * times[-1]), "all of it"
    kept = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"table.csv", "plots", "sweep.json", "summary.json"} <= kept
    plots = {Path(artifact.path).name for artifact in client.list_artifacts(parent.info.run_id, "plots")}
    assert {"fields.png", "curves.png", "pareto.png"} <= plots
    [version] = client.search_model_versions("name='best-of-s'")
    assert version.run_id == best.info.run_id

    summary = json.loads((text / "runs" / "s" / "s-01" / "summary.json").read_text())
    assert summary["wall_seconds"] > summary["seconds"] > 0
    with open(text / "runs" / "s" / "table.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["training.learning_rate"]) == 0.01 and rows[0]["place"] == "1" and rows[0]["step"] == "300"
    assert float(rows[0]["validation_bpb"]) == pytest.approx(best.data.metrics["validation/bpb"])
    assert rows[-1]["state"] == "failed" and "diverged" in rows[-1]["error"]

    line = done.stdout[done.stdout.index("python jobs/train.py") :].splitlines()[0]
    assert call_job("train", text, *shlex.split(line)[2:], "--local", "--name", "full").returncode == 0
    full = json.loads((text / "runs" / "full" / "summary.json").read_text())
    assert full["validation_bpb"] == pytest.approx(best.data.metrics["validation/bpb"], abs=1e-6)


SEEDED = words(
    "--search.space training.learning_rate=log:1e-4:1e-1 training.axiom_lambda=log:1e-3:1 --search.trials 3 "
    "--search.concurrency 1 --training.save-every 20"
)


def results(folder: Path) -> list[tuple[object, ...]]:
    trials = [json.loads(path.read_text()) for path in sorted((folder / "runs" / "s").glob("*/trial.json"))]
    return [(trial["values"], trial["state"], trial["step"], trial["bpb"]) for trial in trials]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_a_sweep_that_is_killed_with_all_of_ray_goes_on_as_if_it_had_not_been(
    text: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same values, states and results as those of an undisturbed sweep with the same seed, bit for bit."""
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    write_text(undisturbed)
    done = job(undisturbed, *TINY, *SEEDED, "--name", "s")
    assert done.returncode == 0, done.stderr

    with open(text / "killed.txt", "w") as said:
        process = subprocess.Popen(command(*TINY, *SEEDED, "--name", "s"), cwd=text, stdout=said, stderr=said)
        while not list(text.glob("runs/s/s-02/checkpoints/step-*/commit.json")):
            assert process.poll() is None, (text / "killed.txt").read_text()
            time.sleep(0.02)
        doomed = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in doomed:
            os.kill(one.pid, signal.SIGKILL)
        process.wait()
    first = json.loads((text / "runs/s/s-01/trial.json").read_text())
    checkpoints = (text / "runs/s/s-01/checkpoints").stat().st_mtime_ns
    assert first["state"] == "finished"
    for snapshot in (text / "runs/s/ray").rglob("*.*"):
        if snapshot.is_file():
            snapshot.write_bytes(snapshot.read_bytes()[:10])  # a truncated note of Tune's costs nothing

    done = job(text, "--resume")
    assert done.returncode == 0, done.stderr
    assert "1 trials have ended before, 1 will go on" in done.stdout
    assert results(text) == results(undisturbed)
    assert json.loads((text / "runs/s/s-01/trial.json").read_text()) == first, "what had ended was left alone"
    assert (text / "runs/s/s-01/checkpoints").stat().st_mtime_ns == checkpoints
    client, parent, children = runs_of(text, "s")
    assert [run.info.run_name for run in children] == ["s-01", "s-02", "s-03"] and parent.info.status == "FINISHED"
    for run in children:
        steps = steps_of(client, run, "train/bpb")
        assert steps == sorted(set(steps)), "no metric twice"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_a_sweep_whose_every_trial_fails_says_why_once(text: Path) -> None:
    space = "training.learning_rate=1e30,1e31"
    done = job(text, *TINY, "--search.space", space, "--search.algorithm", "grid", "--name", "s")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no trial finished: training diverged 4 times")
    assert len(done.stderr.strip().splitlines()) == 1
    _, parent, children = runs_of(text, "s")
    assert parent.info.status == "FAILED" and {run.info.status for run in children} == {"FAILED"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_ctrl_c_saves_and_says_how_to_go_on(text: Path) -> None:
    long = [*TINY, "--training.steps", "20000", "--search.space", "training.learning_rate=1e-2,1e-3"]
    process = subprocess.Popen(
        command(*long, "--search.algorithm", "grid", "--name", "s"),
        cwd=text,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list(text.glob("runs/s/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(2)
    os.kill(process.pid, signal.SIGINT)
    said, complaints = process.communicate()
    assert (process.returncode, complaints) == (130, "")
    assert "continue with python jobs/tune.py --resume --name s" in said
    assert re.search(r"trials: (\d+ \w+, )*\d+ interrupted", said)
    assert list(text.glob("runs/s/*/checkpoints/step-*/commit.json"))
    states = [json.loads(path.read_text())["state"] for path in text.glob("runs/s/*/trial.json")]
    assert states and set(states) == {"running"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_trials_of_two_workers(text: Path) -> None:
    space = ["--search.space", "training.learning_rate=1e-2,1e-6", "--search.algorithm", "grid"]
    done = job(text, *TINY, *space, "--workers", "2", "--name", "s")
    assert done.returncode == 0, done.stderr
    assert "2 workers × " in done.stdout
    assert [state for _, state, _, _ in results(text)] == ["finished", "pruned"]
    assert json.loads((text / "runs/s/s-01/summary.json").read_text())["world_size"] == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_seeds_and_two_objectives(text: Path) -> None:
    space = ["--search.space", "model.fixed_rank=1,2", "--search.algorithm", "grid", "--search.scheduler", "none"]
    done = job(text, *TINY, *space, "--search.seeds", "2", "--search.objective", "bpb+parameters", "--name", "s")
    assert done.returncode == 0, done.stderr
    assert "±" in done.stdout and "on the Pareto front of bpb and parameters" in done.stdout
    seeds = [json.loads(path.read_text())["seed"] for path in sorted(text.glob("runs/s/*/trial.json"))]
    assert seeds == [0, 1, 0, 1]
