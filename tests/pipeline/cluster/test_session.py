"""A Ray session: which cluster is meant, and that nothing of it is left."""

import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.cluster.session import find_address

JOBS = Path(__file__).parents[3] / "jobs"


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://head:10001", "head", ":6379"])
def test_an_address_of_another_kind_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(UserError, match=r"address must be HOST:PORT of a Ray cluster, or auto, .* ray job submit"):
        find_address(address)


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at {free} .*: start one with ray start --head"):
        find_address(free)


@pytest.mark.ray  # waits for a server
def test_what_listens_and_is_no_ray_head_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing, as a process that was stopped, or speaks HTTP, as Ray's dashboard."""
    monkeypatch.setattr("pipeline.cluster.session._HEAR_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for port in (silent.getsockname()[1], web.server_port):
            with pytest.raises(
                UserError, match=f"no Ray cluster answers at 127.0.0.1:{port} .* has not spoken as a Ray"
            ):
                find_address(f"127.0.0.1:{port}")
        web.shutdown()


@pytest.mark.ray  # starts a Ray
def test_sigterm_to_all_before_a_run_begins_is_one_line() -> None:
    # A Ray whose head dies in its first milliseconds waits a minute for it, in a thread of its own.
    program = (
        "import time; from pipeline.cli import run; from pipeline.cluster.session import ray_session\n"
        "def main(args):\n    with ray_session(verbose=False):\n"
        "        time.sleep(1)\n        print('up', flush=True)\n        time.sleep(60)\n"
        "run(main)"
    )
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    root = JOBS.parent
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, start_new_session=True, **piped) as process:  # type: ignore[call-overload]
        assert process.stdout and process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.communicate()[1] == "error: terminated\n"
    assert process.returncode == 143


@pytest.mark.ray
def test_a_ray_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "T.txt").write_text("some text\n")
    command = [sys.executable, JOBS / "prepare.py", "--corpus.path", "T.txt"]
    for folder in ("/proc/x", f"{tmp_path}/{'x' * 100}"):  # where no folder can be made; too long for a socket's name
        ran = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"RAY_TMPDIR": folder}, capture_output=True, text=True
        )
        assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
        assert ran.stderr.startswith("error: Ray does not start on this machine (") and "--local" in ran.stderr


def test_a_ray_of_our_own_is_the_rule_and_ray_address_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert find_address(None) == "local", "a cluster that happens to run on this machine is not joined"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert find_address(None) == "auto" and find_address("local") == "local"


@pytest.mark.slow
@pytest.mark.ray
def test_tasks_that_wait_for_a_cpu_are_no_news_and_nothing_is_left_running() -> None:
    queue = """
import psutil, time
from pipeline.cluster.session import ray_session
with ray_session(verbose=False):
    import ray
    sleep = ray.remote(lambda: time.sleep(3))
    ray.get([sleep.remote() for _ in range(4 * int(ray.cluster_resources()["CPU"]))])
print([child.cmdline() for child in psutil.Process().children(recursive=True)])
"""
    ran = subprocess.run([sys.executable, "-c", queue], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
