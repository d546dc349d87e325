"""A Ray session: quiet, private to this machine unless told to join a cluster, with enough CPUs and GPUs."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from h2q.config import require

_ENVIRONMENT = {
    # `report` and the end of a run wait for the controller's next look at its workers: 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Each print of a worker would appear twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Relative paths mean the same in a worker as in the command that started it.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A task without a GPU must not lose sight of the others (and Ray must not warn about it).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A worker that hangs does not take part in the end of its group: 30 s by default.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def quiet_ray(*, verbose: bool) -> None:
    """Keep Ray's own messages off the terminal, and set what its workers inherit. Call before Ray starts."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not verbose:
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def ray_session(*, verbose: bool, dashboard: bool = False) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine; leave or end it afterwards.

    A Ray that this process has joined already is used as it is. `dashboard`: also where nobody wants to see it.
    """
    quiet_ray(verbose=verbose)
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(
        log_to_driver=verbose,
        logging_level=logging.INFO if verbose else logging.CRITICAL,
        include_dashboard=None if verbose else dashboard,
    )
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each worker is given."""

    gpu: bool
    cpus: int = 1
    threads: int | None = None
    """Threads of torch: one for each CPU, or OMP_NUM_THREADS if that is less; None: torch's own choice."""


def local_resources(workers: int, use_gpu: str) -> Resources:
    """What this process can use.

    Raises: UserError if a GPU was asked for and there is none.
    """
    import torch

    found = torch.cuda.is_available()
    require(use_gpu != "yes" or found, "use_gpu is yes, but this machine has no CUDA GPU: use --use-gpu no")
    return Resources(gpu=found and use_gpu != "no")


def find_resources(workers: int, use_gpu: str) -> Resources:
    """What the cluster can give each of so many workers, before anything is started.

    Raises: UserError with what there is and what was asked.
    """
    import ray

    total = ray.cluster_resources()
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    require(
        cpus >= workers, f"{workers} workers need {workers} CPUs, the cluster has {cpus}: use --workers {max(1, cpus)}"
    )
    gpu = use_gpu == "yes" or (use_gpu == "auto" and gpus > 0)
    require(
        not gpu or gpus >= workers,
        f"{workers} workers need {workers} GPUs, the cluster has {gpus}: use --workers {gpus} or --use-gpu no"
        if gpus
        else "use_gpu is yes, but the cluster has no GPU: use --use-gpu no",
    )
    per_node = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    each = cpus_per_worker([cpus for cpus in per_node if cpus], workers)
    return Resources(gpu=gpu, cpus=each, threads=min(each, int(os.environ.get("OMP_NUM_THREADS") or each)))


def cpus_per_worker(nodes: list[int], workers: int) -> int:
    """Most CPUs that each of the workers can have, packed onto nodes with so many CPUs."""
    return next(cpus for cpus in range(max(nodes), 0, -1) if sum(node // cpus for node in nodes) >= workers)
