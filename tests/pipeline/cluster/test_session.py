"""Resources: what there is and what was asked, before anything starts."""

import socket
import subprocess
import sys

import pytest

from h2q.errors import UserError
from pipeline.cluster.session import cpus_per_worker, find_address, find_resources, local_resources


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [([2], 1, 2), ([2], 2, 1), ([8], 3, 2), ([8, 8], 2, 8), ([8, 8], 4, 4), ([16, 4], 3, 5), ([1, 1], 2, 1)],
)
def test_workers_get_as_many_cpus_as_fit_on_the_nodes(nodes: list[int], workers: int, cpus: int) -> None:
    assert cpus_per_worker(nodes, workers) == cpus
    assert sum(node // cpus for node in nodes) >= workers
    assert sum(node // (cpus + 1) for node in nodes) < workers


@pytest.mark.usefixtures("ray_cluster")
def test_what_the_cluster_lacks_is_named() -> None:
    found = find_resources(2, "auto")
    assert (found.gpu, found.cpus) == (False, 1)
    with pytest.raises(UserError, match="3 workers need 3 CPUs, the cluster has 2: use --workers 2"):
        find_resources(3, "auto")
    with pytest.raises(UserError, match="1 worker needs 1 GPU, the cluster has none: use --use-gpu no"):
        find_resources(1, "yes")


def test_a_process_uses_what_it_has() -> None:
    assert not local_resources(1, "no").gpu


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
