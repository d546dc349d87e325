"""A Ray session: which cluster is meant, and that nothing of it is left."""

import socket
import subprocess
import sys

import pytest

from h2q.errors import UserError
from pipeline.cluster.session import find_address


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://head:10001", "head", ":6379"])
def test_an_address_of_another_kind_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(UserError, match=r"address must be HOST:PORT of a Ray cluster, or auto, .* ray job submit"):
        find_address(address)


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at {free} .*: start one with ray start --head"):
        find_address(free)


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
