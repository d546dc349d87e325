"""Resources: what there is and what was asked, before anything starts."""

import pytest

from h2q.errors import UserError
from pipeline.cluster.resources import cpus_per_worker, find_resources, local_resources, usual_threads


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [([2], 1, 2), ([2], 2, 1), ([8], 3, 2), ([8, 8], 2, 8), ([8, 8], 4, 4), ([16, 4], 3, 5), ([1, 1], 2, 1)],
)
def test_workers_get_as_many_cpus_as_fit_on_the_nodes(nodes: list[int], workers: int, cpus: int) -> None:
    assert cpus_per_worker(nodes, workers) == cpus
    assert sum(node // cpus for node in nodes) >= workers
    assert sum(node // (cpus + 1) for node in nodes) < workers


@pytest.mark.parametrize(
    ("said", "threads"), [("", 8), ("4", 4), (" 4 , 2", 4), ("99", 8), ("0", 8), ("0,2", 8), ("-3", 8), ("auto", 8)]
)
def test_threads_are_the_first_number_that_openmp_was_told(
    said: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert usual_threads(8) == threads


@pytest.mark.usefixtures("ray_cluster")
def test_what_the_cluster_lacks_is_named() -> None:
    found = find_resources(2, "auto")
    assert (found.gpu, found.cpus) == (False, 1)
    with pytest.raises(UserError, match="3 workers need 3 CPUs, the cluster has 2: use --workers 2"):
        find_resources(3, "auto")
    with pytest.raises(UserError, match="1 worker needs 1 GPU, the cluster has none: use --use-gpu no"):
        find_resources(1, "yes")


def test_a_process_uses_what_it_has() -> None:
    assert not local_resources("no").gpu
