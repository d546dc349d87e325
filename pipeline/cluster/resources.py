"""What each worker is given: looked up before anything is started, with one line where it is not there."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from h2q.errors import require


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each worker is given."""

    gpu: bool
    cpus: int = 1
    threads: int
    """Threads of torch: as many as were asked for, else one for each CPU, or OMP_NUM_THREADS if that is less."""


def local_resources(use_gpu: str, threads: int | None = None) -> Resources:
    """What this process can use.

    Raises: UserError if a GPU was asked for and there is none.
    """
    import torch

    found = torch.cuda.is_available()
    require(use_gpu != "yes" or found, "use_gpu is yes, but this machine has no CUDA GPU: use --use-gpu no")
    return Resources(gpu=found and use_gpu != "no", threads=threads or torch.get_num_threads())


def find_resources(
    workers: int,
    use_gpu: str,
    *,
    threads: int | None = None,
    wait: int = 0,
    say: Callable[[str], None] = print,
) -> Resources:
    """What the cluster can give each of so many workers, before anything is started.

    A cluster that grows by itself is asked for what is missing, and waited for so many seconds; `say` is told.
    Raises: UserError with what there is and what was asked.
    """
    import ray

    def found(kind: str) -> int:
        return int(ray.cluster_resources().get(kind, 0))

    gpu = use_gpu == "yes" or (use_gpu == "auto" and found("GPU") > 0)
    needed = ("CPU", "GPU") if gpu else ("CPU",)
    lacking = [kind for kind in needed if found(kind) < workers]
    if wait and lacking:
        say(f"waiting for {workers} {lacking[-1]}s: the cluster has {found(lacking[-1])}")
        _grow(dict.fromkeys(needed, 1.0), workers, wait)
    for kind in needed:
        require(found(kind) >= workers, _lack(kind, workers, found(kind), wait))
    per_node = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    each = cpus_per_worker([cpus for cpus in per_node if cpus], workers)
    return Resources(gpu=gpu, cpus=each, threads=threads or usual_threads(each))


def usual_threads(cpus: int) -> int:
    """Threads of a worker that has so many CPUs, where nobody asks for another number."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # of those that nested regions get
    return min(cpus, int(first) or cpus) if first.isdecimal() else cpus


def _lack(kind: str, workers: int, there: int, wait: int) -> str:
    several = f"{workers} workers need {workers} {kind}s" if workers > 1 else f"1 worker needs 1 {kind}"
    ways = [f"--workers {there}"] * (there > 0) + ["--use-gpu no"] * (kind == "GPU")
    # Only of a cluster that was joined: a Ray of this machine does not grow.
    ways += ["--wait SECONDS where the cluster grows by itself"] * (not wait and "RAY_ADDRESS" in os.environ)
    after = f" after {wait} s" if wait else ""
    advice = f"use {' or '.join(ways)}" if ways else "start nodes that have some"
    return f"{several}, the cluster has {there or 'none'}{after}: {advice}"


def _grow(each: dict[str, float], workers: int, wait: int) -> None:
    """Ask the cluster for room for all workers at once, and wait until it is there or the time is up."""
    from ray.util import placement_group, remove_placement_group

    # What is asked for in this way is forgotten when this process ends, however it ends: nodes may then go idle.
    room = placement_group([each] * workers)
    try:
        room.wait(wait)
    finally:
        remove_placement_group(room)


def cpus_per_worker(nodes: list[int], workers: int) -> int:
    """Most CPUs that each of the workers can have, packed onto nodes with so many CPUs."""
    return next(cpus for cpus in range(max(nodes), 0, -1) if sum(node // cpus for node in nodes) >= workers)
