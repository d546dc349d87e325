"""What can go wrong outside: signals, lost workers, a tracking server that goes away. Through the real stack."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.checkpoint import list_checkpoints, newest_valid
from pipeline.cli import options_of
from pipeline.config import PRESETS, RunConfig
from pipeline.run_folder import RunFolder
from pipeline.summary import Summary

ROOT = Path(__file__).parent.parent.parent
Make = Callable[..., RunConfig]
Train = Callable[[RunConfig], tuple[Summary, RunFolder, str]]


def start(config: RunConfig, folder: Path) -> subprocess.Popen[str]:
    """The run in a process of its own."""
    options = options_of(config, PRESETS["laptop"])
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "train.py"), *options],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_checkpoint(folder: RunFolder, process: subprocess.Popen[str]) -> None:
    while not any((path / "commit.json").exists() for path in list_checkpoints(folder.checkpoints)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = newest_valid(folder.checkpoints)
    assert found is not None
    return found[0].model


LONG = {"steps": 300, "evaluate_every": 300, "save_every": 20}


@pytest.fixture(scope="module")
def undisturbed(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The long run without a fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(tiny(folder, training=LONG), folder)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return RunFolder(folder / "runs" / "run")


@pytest.mark.parametrize("local", [True, False], ids=["local", "ray"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_sums_up_and_the_run_can_go_on(
    tmp_path: Path, tiny: Make, undisturbed: RunFolder, local: bool, number: int, code: int
) -> None:
    if not local and number == signal.SIGTERM:
        pytest.skip("as SIGINT; one start of Ray is enough")
    config = tiny(tmp_path, training=LONG, local=local)
    folder = RunFolder(tmp_path / "runs" / "run")
    process = start(config, tmp_path)
    wait_for_checkpoint(folder, process)
    os.kill(process.pid, number)
    said, complaints = process.communicate()
    assert (process.returncode, complaints) == (code, "")
    stopped = folder.read("summary.json")
    assert stopped and stopped["status"] == "stopped" and 20 <= stopped["steps"] < 300
    assert f"stopped at step {stopped['steps']}; continue with --resume --name run" in said
    process = start(replace(config, resume=True, local=True), tmp_path)
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints
    for name, mine in weights(undisturbed).items():
        assert torch.equal(weights(folder)[name], mine), name


def descendants(process: subprocess.Popen[str], title: str) -> list[psutil.Process]:
    """Processes of the run's own Ray with this word in their title."""
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if title in " ".join(child.cmdline())
    ]


def test_a_worker_that_is_killed_is_replaced_and_the_run_ends_as_if_undisturbed(
    tmp_path: Path, tiny: Make, undisturbed: RunFolder
) -> None:
    config = tiny(tmp_path, training=LONG, local=False, retries=1)
    folder = RunFolder(tmp_path / "runs" / "run")
    process = start(config, tmp_path)
    wait_for_checkpoint(folder, process)
    [worker] = descendants(process, "RayTrainWorker")
    worker.kill()
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    for name, mine in weights(undisturbed).items():
        assert torch.equal(weights(folder)[name], mine), name
    steps = [json.loads(line)["step"] for line in folder.journal.read_text().splitlines()]
    assert steps == list(range(0, 301, 2))


@pytest.mark.parametrize("victim", ["TrainController", "driver"])
def test_a_killed_controller_or_driver_costs_one_more_start(
    tmp_path: Path, tiny: Make, undisturbed: RunFolder, victim: str
) -> None:
    config = tiny(tmp_path, training=LONG, local=False)
    folder = RunFolder(tmp_path / "runs" / "run")
    process = start(config, tmp_path)
    wait_for_checkpoint(folder, process)
    for doomed in [psutil.Process(process.pid)] if victim == "driver" else descendants(process, victim):
        doomed.kill()
    _, complaints = process.communicate()
    if victim == "TrainController":
        assert process.returncode == 1 and complaints.startswith("error: training failed"), complaints
        assert len(complaints.strip().splitlines()) == 1
    process = start(replace(config, resume=True, local=True), tmp_path)
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints
    for name, mine in weights(undisturbed).items():
        assert torch.equal(weights(folder)[name], mine), name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real tracking server on 127.0.0.1."""
    stored = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/artifacts"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *stored, "--port", str(port), "--workers", "1"],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            child.kill()
        process.wait()


def test_a_tracking_server_that_goes_away_and_comes_back_misses_nothing(tmp_path: Path, tiny: Make) -> None:
    from mlflow.tracking import MlflowClient

    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    config = tiny(tmp_path, training=LONG | {"steps": 400}, tracking={"uri": uri})
    folder = RunFolder(tmp_path / "runs" / "run")
    with mlflow_server(tmp_path, port):
        process = start(config, tmp_path)
        wait_for_checkpoint(folder, process)
    said, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    assert "MLflow did not take all of the run" in said and "--resume --name run" in said
    with mlflow_server(tmp_path, port):
        process = start(replace(config, resume=True), tmp_path)
        _, complaints = process.communicate()
        assert (process.returncode, complaints) == (0, "")
        noted = folder.read("mlflow.json")
        assert noted
        client = MlflowClient(uri)
        logged = [metric.step for metric in client.get_metric_history(noted["run_id"], "train/bpb")]
        assert client.get_run(noted["run_id"]).info.status == "FINISHED"
    assert logged == list(range(0, 401, 2))
