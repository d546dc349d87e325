"""What can go wrong outside: signals, lost workers, a tracking server that goes away. Through the real stack."""

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pipeline.cli import options_of
from pipeline.config import RunConfig, new_run
from pipeline.runs.checkpoint import list_checkpoints, newest_valid
from pipeline.runs.folder import RunFolder
from pipeline.training.summary import Summary

pytestmark = pytest.mark.ray  # Whole jobs, in processes of their own that are killed.

ROOT = Path(__file__).parents[3]
Make = Callable[..., RunConfig]
Train = Callable[[RunConfig], tuple[Summary, RunFolder, str]]


def start(config: RunConfig, folder: Path) -> subprocess.Popen[str]:
    """The run in a process of its own."""
    options = options_of(config, new_run("laptop"))
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


LONG = {"steps": 300, "log_every": 20, "evaluate_every": 300, "save_every": 20}


@pytest.fixture(scope="module")
def undisturbed(tiny: Make, train: Train, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The long run without a fault."""
    return train(tiny(tmp_path_factory.mktemp("undisturbed"), training=LONG))[1]


@pytest.mark.parametrize("local", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["local", "ray"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_sums_up_and_the_run_can_go_on(
    tmp_path: Path, tiny: Make, train: Train, undisturbed: RunFolder, local: bool, number: int, code: int
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
    train(replace(config, resume=True, local=True))
    for name, mine in weights(undisturbed).items():
        assert torch.equal(weights(folder)[name], mine), name


def descendants(process: subprocess.Popen[str], title: str) -> list[psutil.Process]:
    """Processes of the run's own Ray with this word in their title."""
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if title in " ".join(child.cmdline())
    ]


def heard(process: psutil.Process) -> set[str]:
    """The addresses at which a run listens that are not of this machine alone."""
    # torch's rendezvous, which binds to all interfaces, belongs to the first worker.
    within = [child for child in process.children(recursive=True) if "RayTrainWorker" not in " ".join(child.cmdline())]
    sockets = [connection for each in (process, *within) for connection in each.net_connections("tcp")]
    listening = {connection.laddr.ip for connection in sockets if connection.status == psutil.CONN_LISTEN}
    assert listening, "Ray is there"
    return listening - {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def computes(process: psutil.Process) -> bool:
    """Whether the process has torch in its memory."""
    return any("libtorch" in Path(library.path).name for library in process.memory_maps())


def test_a_worker_that_is_killed_is_replaced_and_the_run_ends_as_if_undisturbed(
    tmp_path: Path, tiny: Make, undisturbed: RunFolder
) -> None:
    config = tiny(tmp_path, training=LONG, local=False, retries=1)
    folder = RunFolder(tmp_path / "runs" / "run")
    process = start(config, tmp_path)
    wait_for_checkpoint(folder, process)
    [worker], [controller] = descendants(process, "RayTrainWorker"), descendants(process, "TrainController")
    loads_torch = [computes(each) for each in (worker, controller, psutil.Process(process.pid))]
    assert loads_torch == [True, False, False], "200 MB and two seconds of a CPU each"
    assert not heard(psutil.Process(process.pid)), "a Ray of this machine alone is not heard from outside"
    worker.kill()
    said, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    assert re.search(r"^training goes on from step \d+ once more: a worker was lost", said, re.MULTILINE), said
    for name, mine in weights(undisturbed).items():
        assert torch.equal(weights(folder)[name], mine), name
    steps = [json.loads(line)["step"] for line in folder.journal.read_text().splitlines()]
    assert steps == list(range(0, 301, 20))


@pytest.mark.parametrize("victim", ["TrainController", pytest.param("driver", marks=pytest.mark.slow)])
def test_a_killed_controller_or_driver_costs_one_more_start(
    tmp_path: Path, tiny: Make, train: Train, undisturbed: RunFolder, victim: str
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
    assert not (folder.path / "ray").exists(), "what Ray noted of the run cannot matter: it lies nowhere"
    train(replace(config, resume=True, local=True))
    for name, mine in weights(undisturbed).items():
        assert torch.equal(weights(folder)[name], mine), name


def test_a_run_killed_while_it_saves_goes_on_from_the_save_before(
    tmp_path: Path, tiny: Make, train: Train, undisturbed: RunFolder
) -> None:
    config = tiny(tmp_path, training=LONG | {"save_every": 1, "keep": 2})
    folder = RunFolder(tmp_path / "runs" / "run")
    caught = False
    while not caught:
        process = start(config, tmp_path)
        wait_for_checkpoint(folder, process)
        while not any(folder.checkpoints.glob(".step-*")):
            assert process.poll() is None, "no save was caught in the act"
        process.kill()
        process.communicate()
        caught = any(folder.checkpoints.glob(".step-*"))  # or it was renamed before the kill came: once more
        config = replace(config, resume=True)
    train(replace(config, training=replace(config.training, save_every=20)))
    assert not any(folder.checkpoints.glob(".step-*"))
    for name, mine in weights(undisturbed).items():
        assert torch.equal(weights(folder)[name], mine), name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system must be mounted, which needs root: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_what_was_saved_is_whole(
    tmp_path: Path, tiny: Make, train: Train, small_disk: Path
) -> None:
    saves = {"steps": 40, "save_every": 2, "evaluate_every": 40, "keep": 50}
    config = tiny(small_disk, training=saves)
    process = start(config, tmp_path)
    _, complaints = process.communicate()
    assert process.returncode == 2
    assert complaints.startswith("error: storage must have room for checkpoints") and complaints.count("\n") == 1
    folder = RunFolder(small_disk / "runs" / "run")
    found = newest_valid(folder.checkpoints)
    assert found is not None and found[2] == [] and 2 <= found[0].state["step"] < 40
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    train(replace(config, resume=True))
    _, peace, _ = train(tiny(tmp_path, training=saves))
    for name, mine in weights(peace).items():
        assert torch.equal(weights(folder)[name], mine), name


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(tmp_path: Path, tiny: Make, undisturbed: RunFolder) -> None:
    config = tiny(tmp_path, training=LONG, model={"dropout": 0.0}, local=False, workers=2, retries=1, timeout=10)
    folder = RunFolder(tmp_path / "runs" / "run")
    process = start(config, tmp_path)
    wait_for_checkpoint(folder, process)
    descendants(process, "RayTrainWorker")[1].suspend()
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    steps = [json.loads(line)["step"] for line in folder.journal.read_text().splitlines()]
    assert steps == list(range(0, 301, 20))


KILLS = 21


@pytest.mark.slow
@pytest.mark.timeout(3600)  # 25 minutes on two cores that four others used as well
@pytest.mark.parametrize(
    ("model", "training"),
    [({}, {}), ({"mixer": "state"}, {"cold_starts": 0.3, "reset_at": "document"})],
    ids=["attention", "state"],
)
def test_a_run_killed_at_many_random_points_ends_as_if_undisturbed(
    tmp_path: Path, tiny: Make, model: dict[str, Any], training: dict[str, Any]
) -> None:
    """Worker, controller and driver in turn; prints how long it took each time until training went on."""
    long = {"steps": 12_000, "evaluate_every": 3000, "save_every": 20} | training
    config = tiny(tmp_path, model=model, training=long, local=False, retries=KILLS)
    folder = RunFolder(tmp_path / "runs" / "run")
    chance = random.Random(0)
    recoveries: dict[str, list[float]] = {}
    process = start(config, tmp_path)
    wait_for_checkpoint(folder, process)
    for number in range(KILLS):
        victim = ("RayTrainWorker", "TrainController", "driver")[number % 3]
        time.sleep(chance.uniform(0, 1.5))
        assert process.poll() is None, "the run ended before it was killed often enough"
        began, restarted = time.monotonic(), folder.journal.stat().st_ino
        for doomed in [psutil.Process(process.pid)] if victim == "driver" else descendants(process, victim):
            doomed.kill()
        if victim != "RayTrainWorker":
            process.communicate()
            config = replace(config, resume=True)
            process = start(config, tmp_path)
        # Whoever goes on replaces the journal, by one without the steps that are to be trained again.
        while folder.journal.stat().st_ino == restarted or folder.journal.stat().st_size == 0:
            if process.poll() is not None:  # Ray gives a machine that others keep busy 30 s, not more
                _, complaints = process.communicate()
                assert "Ray does not start on this machine (The current node timed out" in complaints
                process = start(config, tmp_path)
            time.sleep(0.05)
        size = folder.journal.stat().st_size
        while folder.journal.stat().st_size == size:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        recoveries.setdefault(victim, []).append(time.monotonic() - began)
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    print({victim: f"{statistics.median(times):.1f} s" for victim, times in recoveries.items()})
    peace = tmp_path / "undisturbed"
    peace.mkdir()
    process = start(tiny(peace, model=model, training=long), peace)
    process.communicate()
    found, undisturbed = (newest_valid(run.checkpoints) for run in (folder, RunFolder(peace / "runs" / "run")))
    assert found and undisturbed and bool(undisturbed[0].carried) == bool(model)
    for kind in ("model", "optimizer", "carried"):
        mine, theirs = getattr(found[0], kind), getattr(undisturbed[0], kind)
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(mine[name], tensor), name
    steps = [json.loads(line)["step"] for line in folder.journal.read_text().splitlines()]
    assert steps == list(range(0, 12_001, 2))


def test_a_tracking_server_that_goes_away_and_comes_back_misses_nothing(
    tmp_path: Path, tiny: Make, train: Train, tracking_server: tuple[str, Callable[[], AbstractContextManager[None]]]
) -> None:
    from mlflow.tracking import MlflowClient

    uri, running = tracking_server
    config = tiny(tmp_path, training=LONG | {"steps": 400}, tracking={"enabled": True, "uri": uri})
    folder = RunFolder(tmp_path / "runs" / "run")
    with running():
        process = start(config, tmp_path)
        wait_for_checkpoint(folder, process)
    said, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    assert "MLflow did not take all of the run" in said and "--resume --name run" in said
    with running():
        train(replace(config, resume=True))
        noted = folder.read("mlflow.json")
        assert noted
        client = MlflowClient(uri)
        logged = [metric.step for metric in client.get_metric_history(noted["run_id"], "train/bpb")]
        assert client.get_run(noted["run_id"]).info.status == "FINISHED"
    assert logged == list(range(0, 401, 20))
