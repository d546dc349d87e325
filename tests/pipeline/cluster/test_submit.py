"""`ray job submit` to a real cluster of two nodes with a token, whose Python has only the dependencies."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.cli import options_of
from pipeline.config import PRESETS, RunConfig, new_run
from pipeline.runs.checkpoint import newest_valid
from pipeline.runs.folder import RunFolder
from pipeline.training.summary import Summary

ROOT = Path(__file__).parents[3]
Make = Callable[..., RunConfig]
Train = Callable[[RunConfig], tuple[Summary, RunFolder, str]]
STAYS = ("runs/one/model.safetensors", "data/train.arrow", ".venv/bin/python", "mlflow.db", ".git/objects/pack")
"""What lies in a checkout that was worked in, and must not be uploaded."""
BESIDE = """
import os
os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
from ray._private import services
from ray.scripts.scripts import main
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
services.get_node_ip_address = lambda address=None: "127.0.0.1"
"""
"""`ray` for one more node: on a cluster that listens on 127.0.0.1, Ray itself allows one node only."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster: `ray start`, and all that it started."""

    process: subprocess.Popen

    def kill(self) -> None:
        """As when a machine is lost."""
        if self.process.poll() is None:
            doomed = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            for one in doomed:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(doomed, timeout=10)
            self.process.wait()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running cluster, and how to speak to it."""

    ports: dict[str, int]
    environment: dict[str, str]
    folder: Path
    temporary: Path
    nodes: list[Node]

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def start(self, *options: str, ray: tuple[str, ...] = ("ray",)) -> Node:
        """`ray start`: a node of one CPU. `ray`: the words of the command."""
        # A folder for each, as on machines of their own: what one unpacks or deletes is not the other's.
        temporary = self.temporary / str(len(self.nodes))
        usual = ("--num-cpus=1", "--object-store-memory=100000000", f"--temp-dir={temporary}")
        process = subprocess.Popen(
            [*ray, "start", "--block", "--disable-usage-stats", *usual, *options],
            env=self.environment,
            stdout=(self.folder / f"node-{len(self.nodes)}.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        self.nodes.append(Node(process))
        return self.nodes[-1]

    def join(self, *, before: tuple[str, ...] = ()) -> Node:
        """One node more, waited for. `before`: the words of a command that runs it (`unshare`)."""
        [agent] = free_ports(1)
        gcs = f"127.0.0.1:{self.ports['port']}"
        options = (f"--address={gcs}", f"--dashboard-agent-listen-port={agent}")
        return self.begin(*options, ray=(*before, "ray-beside"))

    def begin(self, *options: str, ray: tuple[str, ...] = ("ray",)) -> Node:
        """Start a node and wait until it takes work; Ray gives it half a minute, too little on a busy machine."""
        count = self.count()
        for _ in range(5):
            node = self.start(*options, ray=ray)
            while node.process.poll() is None:
                if self.count() > count:
                    return node
                time.sleep(0.3)
            node.kill()
            self.nodes.remove(node)
        raise AssertionError((self.folder / f"node-{len(self.nodes)}.log").read_text())

    def until(self, wanted: Callable[[], bool], job: str | None = None) -> None:
        """Wait for it, as long as the head lives and the job, if one is named, has not failed."""
        while not wanted():
            assert self.nodes[0].process.poll() is None, (self.folder / "node-0.log").read_text()
            assert job is None or self.status(job) != "FAILED", self.logs(job or "")
            time.sleep(0.3)

    def count(self) -> int:
        """Nodes that take work."""
        try:
            found = json.loads(self.ask("/nodes?view=summary"))["data"]["summary"]
        except OSError:
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in found)

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ray WORDS`, in the checkout."""
        address = f"http://127.0.0.1:{self.ports['dashboard-port']}"
        environment = self.environment | {"RAY_API_SERVER_ADDRESS": address}
        return subprocess.run(
            ["ray", *words], cwd=self.checkout, env=environment, capture_output=True, text=True, check=False
        )

    def submit(
        self, name: str, config: RunConfig, *more: str, job: str = "jobs/train.py", wait: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir . -- python jobs/train.py …`."""
        options = [*options_of(config, new_run("laptop")), *more]
        waiting = [] if wait else ["--no-wait"]
        command = ["job", "submit", "--submission-id", name, *waiting, "--working-dir", "."]
        return self.ray(*command, "--", "python", job, *options)

    def logs(self, name: str) -> list[str]:
        """The lines of a job's logs from its command on."""
        lines = json.loads(self.ask(f"/api/jobs/{name}/logs"))["logs"].splitlines()
        return lines[next(number for number, line in enumerate(lines) if "Running entrypoint" in line) + 1 :]

    def ask(self, path: str, *, token: bool = True) -> bytes:
        """What the head answers to a GET."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"} if token else {}
        address = f"http://127.0.0.1:{self.ports['dashboard-port']}{path}"
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
            return answer.read()

    def status(self, name: str) -> str:
        """SUCCEEDED, FAILED, STOPPED, …"""
        return json.loads(self.ask(f"/api/jobs/{name}"))["status"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The README's recipe for one machine, twice: two nodes of one CPU."""
    folder = tmp_path_factory.mktemp("cluster")
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    found = Cluster(
        ports=dict(zip(names, free_ports(len(names)), strict=True)),
        environment=os.environ
        | {
            "PATH": f"{dependencies_only(folder / 'venv')}:/usr/bin:/bin",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "PYTHONPATH": "",
        },
        folder=folder,
        temporary=Path(tempfile.mkdtemp(prefix="ray-")),  # the paths of sockets must be short
        nodes=[],
    )
    make_checkout(found.checkout)
    try:
        ports = [f"--{name}={port}" for name, port in found.ports.items()]
        found.start("--head", "--node-ip-address=127.0.0.1", *ports)
        found.until(lambda: found.count() == 1)
        found.join()
        yield found
    finally:
        for node in found.nodes:
            node.kill()
        shutil.rmtree(found.temporary, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def dependencies_only(folder: Path) -> Path:
    """A Python that sees the packages that are installed here, but not this project; its folder of programs."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # No path files are looked for in this folder: an editable installation of this project stays out.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for name, code in (("ray", "from ray.scripts.scripts import main"), ("ray-beside", BESIDE)):
        program = folder / "bin" / name
        program.write_text(f"#!{folder}/bin/python\n{code}\nmain()\n")
        program.chmod(0o755)
    found = subprocess.run(
        [folder / "bin" / "python", "-c", "import ray; import pipeline"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'pipeline'" in found.stderr, "the project must be installed with pip install -e"
    return folder / "bin"


def make_checkout(copy: Path) -> None:
    """What a fresh clone holds, and what gathers in it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for name in STAYS:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(os.urandom(100_000))


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = newest_valid(folder.checkpoints)
    assert found is not None
    return found[0].model


def test_a_submitted_job_trains_over_two_nodes_and_says_so(cluster: Cluster, tmp_path: Path, tiny: Make) -> None:
    from mlflow.tracking import MlflowClient

    storage = tmp_path / "shared"
    config = replace(
        tiny(tmp_path, tracking={"enabled": True, "uri": None}), local=False, workers=2, storage=str(storage)
    )
    config = replace(config, corpus=replace(config.corpus, prepared="data"))
    # That the project can be imported at all, by the driver and on both nodes, is due to the uploaded folder.
    done = cluster.submit("trains", config)
    assert (done.returncode, cluster.status("trains")) == (0, "SUCCEEDED"), done.stdout + done.stderr
    logs = cluster.logs("trains")
    for line in ("starting Ray", "preparing the corpus", f"run {storage}/run", "drawing"):
        assert line in logs
    for told in (logs, done.stdout.splitlines()):
        assert any(line.startswith("step 12/12  ") and "validation" in line for line in told), told
        assert any(line.startswith("run: bits per byte") for line in told)
    for noise in ("\r", "\x1b", "WARNING", "INFO", "Traceback", "pid="):
        assert noise not in "\n".join(logs)

    # All that the run leaves lies under its storage, nothing in the uploaded copy.
    assert sorted(path.name for path in storage.iterdir()) == ["data", "mlartifacts", "mlflow.db", "run"]
    folder = RunFolder(storage / "run")
    summary = folder.read("summary.json")
    assert summary is not None
    assert (summary["status"], summary["steps"], summary["world_size"]) == ("finished", 12, 2)
    run = MlflowClient(f"sqlite:///{storage}/mlflow.db").get_run(summary["mlflow_run_id"])
    assert run.info.status == "FINISHED" and "test/bpb" in run.data.metrics
    assert weights(folder)

    # The upload is the sources, and no more.
    uploads = cluster.temporary.glob("0/session_2*/runtime_resources/working_dir_files/*")
    [upload] = [path for path in uploads if path.is_dir()]
    files = [path for path in upload.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    there = {path.relative_to(cluster.checkout) for path in cluster.checkout.rglob("*") if path.is_file()}
    assert {path.relative_to(upload) for path in files} == there - {Path(name) for name in STAYS}
    assert sum(path.stat().st_size for path in files) < 4_000_000


def test_a_mistake_is_one_line_in_the_logs_of_a_failed_job(cluster: Cluster) -> None:
    done = cluster.submit("fails", PRESETS["laptop"], "--model.dim", "100", "--storage", "/nowhere")
    assert done.returncode == 1 and cluster.status("fails") == "FAILED"
    [line] = cluster.logs("fails")
    assert line.startswith("error: ") and "must be a multiple of 4 × model.factor = 96" in line


def test_a_run_goes_from_local_to_the_cluster_is_stopped_and_goes_on_locally_bit_for_bit(
    cluster: Cluster, tmp_path: Path, tiny: Make, train: Train
) -> None:
    config = tiny(tmp_path, training={"steps": 10, "schedule": "constant", "evaluate_every": 10**6})
    train(config)
    endless = replace(config.training, steps=10**6)
    job = replace(config, local=False, resume=True, training=endless)
    cluster.submit("goes-on", job, "--no-local", wait=False)
    folder = RunFolder(tmp_path / "runs" / "run")
    cluster.until(lambda: len(folder.journal.read_text().splitlines()) > 10, "goes-on")
    cluster.ray("job", "stop", "goes-on")
    assert cluster.status("goes-on") == "STOPPED"
    stopped = folder.read("summary.json")
    assert stopped is not None and stopped["status"] == "stopped" and stopped["steps"] >= 20
    assert f"stopped at step {stopped['steps']}; continue with --resume --name run" in cluster.logs("goes-on")

    training = replace(config.training, steps=stopped["steps"] + 7)
    train(replace(config, resume=True, training=training))
    _, undisturbed, _ = train(replace(config, name="undisturbed", training=training))
    mine, expected = weights(folder), weights(undisturbed)
    assert mine.keys() == expected.keys()
    for name in mine:
        assert torch.equal(mine[name], expected[name]), name


def test_nobody_gets_in_without_the_token_and_nothing_listens_beyond_this_machine(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        cluster.ask("/api/jobs/", token=False)
    heard = {
        connection.laddr.ip
        for node in cluster.nodes
        for process in [psutil.Process(node.process.pid), *psutil.Process(node.process.pid).children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert heard and heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, heard


def test_storage_that_a_node_does_not_see_is_refused_in_one_line(cluster: Cluster, tmp_path: Path, tiny: Make) -> None:
    hidden = tmp_path / "disk"
    hidden.mkdir()
    # A node with a view of its own of the file system: there, nothing is at this path.
    apart = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces need root")
    node = cluster.join(before=apart)
    try:
        config = tiny(tmp_path, training={"lanes": 6})
        config = replace(config, local=False, workers=3, storage=str(hidden), name="scattered")
        done = cluster.submit("scattered", config)
    finally:
        node.kill()
        cluster.until(lambda: cluster.count() == 2)
    assert (done.returncode, cluster.status("scattered")) == (1, "FAILED")
    errors = [line for line in cluster.logs("scattered") if "error" in line.lower()]
    assert len(errors) == 1 and f"does not see {hidden}" in errors[0] and "--storage" in errors[0], errors
    assert not list(hidden.glob("scattered/metrics.jsonl"))


@pytest.mark.slow
def test_a_sweep_has_a_trial_on_each_node_at_once(cluster: Cluster, tmp_path: Path, tiny: Make) -> None:
    from mlflow.tracking import MlflowClient

    long = {"steps": 2000, "evaluate_every": 1000, "save_every": 1000, "log_every": 50}
    config = tiny(tmp_path, training=long, tracking={"enabled": True}, local=False, name="sweep")
    config = replace(config, storage=str(tmp_path / "shared"))
    searching = "--search.space training.learning_rate=1e-3,3e-3 --search.algorithm grid --search.scheduler none"
    done = cluster.submit("sweeps", config, *searching.split(), job="jobs/tune.py")
    assert (done.returncode, cluster.status("sweeps")) == (0, "SUCCEEDED"), cluster.logs("sweeps")
    runs = [RunFolder(tmp_path / "shared" / "sweep" / name) for name in ("sweep-01", "sweep-02")]
    times = [[json.loads(line)["time"] for line in run.journal.read_text().splitlines()] for run in runs]
    # Each node has one CPU, and a trial takes one.
    assert max(each[0] for each in times) < min(each[-1] for each in times), "one trial waited for the other"
    assert config.tracking.uri
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment
    found = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name or "" for run in children) == ["sweep-01", "sweep-02"]
    assert all("test/bpb" in run.data.metrics and run.info.status == "FINISHED" for run in children)


@pytest.mark.slow
def test_a_study_has_a_training_on_each_node_at_once_and_one_result(
    cluster: Cluster, tmp_path: Path, tiny: Make
) -> None:
    config = tiny(tmp_path, tracking={"enabled": True}, local=False, name="study")
    config = replace(config, storage=str(tmp_path / "shared"))
    options = (
        "--study.families hamilton dense --study.sizes 32 --study.seeds 1 --study.rates 1 --study.budget bytes:2e5"
    )
    done = cluster.submit("studies", config, *options.split(), job="jobs/study.py")
    assert (done.returncode, cluster.status("studies")) == (0, "SUCCEEDED"), cluster.logs("studies")
    folder = RunFolder(tmp_path / "shared" / "study")
    runs = [RunFolder(folder.path / name) for name in ("study-01", "study-02")]
    times = [[json.loads(line)["time"] for line in run.journal.read_text().splitlines()] for run in runs]
    assert max(each[0] for each in times) < min(each[-1] for each in times), "one training waited for the other"
    said = (folder.path / "study.md").read_text()
    assert "2 trainings" in said and "\n* time of training, at most" in said
    assert said in "\n".join(cluster.logs("studies"))


@pytest.mark.slow
def test_a_node_is_lost_and_another_comes_and_the_run_ends_as_it_would_have(
    cluster: Cluster, tmp_path: Path, tiny: Make, train: Train
) -> None:
    steady = {"dropout": 0.0}  # what is dropped differs from worker to worker
    config = tiny(tmp_path, model=steady, training={"steps": 600, "evaluate_every": 600, "save_every": 50})
    _, undisturbed, _ = train(replace(config, name="undisturbed"))
    cluster.submit("loses-a-node", replace(config, local=False, workers=2, retries=2), wait=False)
    folder = RunFolder(tmp_path / "runs" / "run")
    cluster.until(lambda: any(folder.path.glob("checkpoints/*/commit.json")), "loses-a-node")
    cluster.nodes[-1].kill()
    cluster.join()
    cluster.until(lambda: cluster.status("loses-a-node") not in ("PENDING", "RUNNING"))
    assert cluster.status("loses-a-node") == "SUCCEEDED", cluster.logs("loses-a-node")
    steps = [json.loads(line)["step"] for line in folder.journal.read_text().splitlines()]
    assert steps == list(range(0, 601, 2))
    # Two workers add gradients in another order than one: after 600 steps, not the same weights, but as good ones.
    ends = [json.loads(one.journal.read_text().splitlines()[-1])["test/bpb"] for one in (folder, undisturbed)]
    assert abs(ends[0] - ends[1]) < 0.02, ends
