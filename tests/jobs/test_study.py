"""A study as its user starts it: real trainings on Ray Tune, killed and resumed."""

import csv
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from pipeline.config import RunConfig
from pipeline.runs.folder import RunFolder
from pipeline.runs.stop import Stopping
from pipeline.sweep.config import SearchConfig, SweepConfig
from pipeline.sweep.report import report_on
from pipeline.sweep.sweep import Sweep

ROOT = Path(__file__).parents[2]


def words(text: str) -> list[str]:
    return text.split()


TINY = words(
    "--name s --model.depth 1 --model.heads 2 --model.dim 32 --model.factor 4 --model.fixed-rank 2 --model.seq-len 16 "
    "--training.lanes 4 --training.log-every 5 --training.save-every 5 --corpus.path text.txt --study.sizes 32 "
    "--study.families hamilton dense --study.seeds 1 --study.rates 1 --study.budget bytes:6400"
)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--study.families", "denser"], "study.families must be of hamilton, dense, phm, btt, monarch, low_rank"),
        (["--study.budget", "hours:1"], "study.budget must be of seconds, multiply-adds, bytes"),
        (["--study.sizes", "100"], "hamilton cannot be trained with model.dim 100: "),
        (["--study.concurrency", "0"], "study.concurrency must be at least 1 training at a time, got 0"),
        (["--study.extend"], "study.extend adds to a study that is there: add --resume"),
        (["--workers", "2"], "a training of a study has one worker: --workers 1, got 2"),
        (["--local"], "a sweep runs its trials on Ray: leave out --local"),
        (["--resume"], "no sweep to resume"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_clear_line_and_starts_nothing(
    tmp_path: Path, options: list[str], rule: str, call_job: Callable
) -> None:
    done = call_job("study", tmp_path, *options, "--corpus.source", "manual")
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(said) == 1 and said[0].startswith("error: ") and rule in said[0], done.stderr
    assert not list((tmp_path / "runs").glob("*"))


def test_a_study_that_was_stopped_says_how_to_go_on(
    tmp_path: Path, call_job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SweepConfig(run=RunConfig(), search=SearchConfig(space=("training.axiom_lambda=0.1,0.2",)))
    (tmp_path / "s").mkdir()
    sweep = Sweep(RunFolder(tmp_path / "s"), config, "laptop", lambda _: None)
    assert sweep.next(), "one that has begun and not ended"
    stopping = Stopping()
    stopping.signal = signal.SIGINT
    stopped = report_on(sweep), sweep.folder, stopping
    monkeypatch.setattr("pipeline.study.driver.study", lambda *_, **__: stopped)
    monkeypatch.setattr("pipeline.study.report.show_text", lambda _: "")
    done = call_job("study", tmp_path, "--name", "s")
    assert done.returncode == 130 and "continue with python jobs/study.py --resume --name s" in done.stdout, done.stderr


def command(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / "study.py"), *options]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("".join(f"Sentence {n} about nothing, {n * n}.\n" for n in range(3000)))
    return tmp_path


def check(folder: Path, seeds: str, said: str) -> None:
    """That the study has both families with these seeds, each training once, and says, keeps and tracks them."""
    study = folder / "runs" / "s"
    assert "time of training, at most" in said and "stored bytes, at most" in said
    rows = list(csv.DictReader((study / "study.csv").open()))
    assert sorted((row["family"], row["seed"], row["state"]) for row in rows) == [
        (family, seed, "finished") for family in ("dense", "hamilton") for seed in seeds
    ]
    assert all(float(row["test_bpb"]) > 0 and float(row["stored_bytes"]) > 0 for row in rows)
    assert (study / "plots" / "study.png").stat().st_size > 10_000 and (study / "study.md").exists()
    assert json.loads((study / "study.json").read_text())["study"]["seeds"] == len(seeds)
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("h2q")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if run.info.run_name == "s"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(rows) == len(runs) - 1, "nothing else, and nothing twice"
    assert "jobs/study.py" in parent.data.tags["mlflow.source.name"]


@pytest.mark.usefixtures("ray_cluster")
def test_more_at_a_time_than_the_cluster_holds_is_said_before_the_start(text: Path, call_job: Callable) -> None:
    done = call_job("study", text, *TINY, "--study.concurrency", "4000")
    assert done.returncode == 2 and "study.concurrency must be at most the" in done.stderr and "4000" in done.stderr
    assert not list((text / "runs").glob("*"))


@pytest.mark.timeout(900)
@pytest.mark.ray
def test_a_study_says_who_is_best_and_is_no_sweep(text: Path, call_job: Callable) -> None:
    done = subprocess.run(command(*TINY), cwd=text, capture_output=True, text=True, timeout=550, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    check(text, "0", done.stdout)
    assert "2 families × 1 sizes × 1 seeds, bytes:6400 a training" in done.stdout
    assert "for the trials that are left" in done.stdout and "of training" in done.stdout
    refused = call_job("tune", text, "--resume", "--name", "s")
    assert refused.returncode == 2 and "s was begun by python jobs/study.py" in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_a_study_goes_on_after_a_kill_of_everything_and_is_extended(text: Path) -> None:
    """Killed within its first training; resumed with a second seed: no training is done twice."""
    with open(text / "killed.txt", "w") as said:
        first = subprocess.Popen(command(*TINY), cwd=text, stdout=said, stderr=said)
        journal = text / "runs/s/s-01/metrics.jsonl"
        while not (journal.exists() and journal.read_text().count("\n") > 1):
            assert first.poll() is None, (text / "killed.txt").read_text()
            time.sleep(0.05)
        for process in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert first.wait() == -signal.SIGKILL
    more = ["--resume", "--study.extend", "--study.seeds", "2"]
    done = subprocess.run(command(*more), cwd=text, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    check(text, "01", done.stdout)


NODES = """
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 100_000_000, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": True})
cluster.add_node(**node)
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
"""Two nodes of one CPU, until nobody writes to it any more."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_a_study_trains_on_two_nodes_at_once(text: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment = os.environ | token | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", NODES], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nodes:
        assert nodes.stdout is not None and nodes.stdin is not None
        address = next(line.split()[1] for line in nodes.stdout if line.startswith("address"))
        longer = [
            *command(*TINY),
            "--study.budget",
            "bytes:50000",
            "--training.save-every",
            "500",
            "--address",
            address,
        ]
        done = subprocess.run(
            longer, cwd=text, env=environment, capture_output=True, text=True, timeout=550, check=False
        )
        nodes.stdin.close()
    assert done.returncode == 0, done.stderr + done.stdout
    check(text, "0", done.stdout)
    journals = [(text / f"runs/s/s-0{number}/metrics.jsonl").read_text().splitlines() for number in (1, 2)]
    times = [[json.loads(line)["time"] for line in journal] for journal in journals]
    # Each node has one CPU, and a training takes one.
    assert max(each[0] for each in times) < min(each[-1] for each in times), "one training waited for the other"
