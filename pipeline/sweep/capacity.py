"""How many trials a cluster can hold at a time, and what each is given."""

import math
from dataclasses import dataclass

from h2q.errors import require
from pipeline.cluster.resources import Resources, cpus_per_worker, usual_threads
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.sampler import DEFAULT_TRIALS


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many trials run at a time, and what each is given."""

    trials: int
    """Trials at a time."""
    workers: int
    """Processes of each trial."""
    resources: Resources
    """Of each of those processes."""
    gpu_share: float

    @property
    def of_tune(self) -> dict[str, float]:
        """What Tune is to set aside for a trial. The workers of a trial with several take theirs themselves: Tune's own
        process then only waits, and must not take a CPU from them."""
        if self.workers > 1:
            return {"CPU": 0, "memory": 1}
        gpu = {"GPU": self.gpu_share} if self.resources.gpu else {}
        return {"CPU": self.resources.cpus, **gpu}

    def __str__(self) -> str:
        cpus = self.resources.cpus
        each = f"{self.workers} workers × " if self.workers > 1 else ""
        gpu = f" and {self.gpu_share:g} GPU" if self.resources.gpu else ""
        several = f"{self.trials} trials" if self.trials > 1 else "1 trial"
        return f"{several} at a time, {each}{cpus} CPU{'s' if cpus > 1 else ''}{gpu} each"


def find_capacity(config: SweepConfig) -> Capacity:
    """The trials that the cluster can hold, before anything is started.

    Raises: UserError with what there is and what was asked.
    """
    import ray

    total = ray.cluster_resources()
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return share_out(config, [cpus for cpus in nodes if cpus], int(total.get("GPU", 0)))


def share_out(config: SweepConfig, nodes: list[int], gpus: int) -> Capacity:
    """The trials that fit on nodes with so many CPUs, and so many GPUs in all.

    Raises: UserError with what there is and what was asked.
    """
    run, search, cpus = config.run, config.search, sum(nodes)
    workers = run.workers
    require(
        cpus >= workers,
        f"a trial of {workers} workers needs {workers} CPUs, the cluster has {cpus}: use --workers {max(1, cpus)}",
    )
    gpu = run.use_gpu == "yes" or (run.use_gpu == "auto" and gpus > 0)
    require(gpus > 0 or not gpu, "use_gpu is yes, but the cluster has no GPU: use --use-gpu no")
    require(
        not gpu or gpus >= workers,
        f"a trial of {workers} workers needs {workers} GPUs, the cluster has {gpus}: use --workers {gpus} or "
        "--use-gpu no",
    )
    holds = cpus // workers
    if gpu:
        holds = min(holds, gpus // workers if workers > 1 else gpus * math.floor(1 / search.gpu_share))
    count = search.concurrency or min(holds, (search.trials or DEFAULT_TRIALS) * search.seeds)
    require(
        count <= holds,
        f"search.concurrency must be at most the {holds} trials that the cluster holds ({cpus} CPUs, {gpus} GPUs), got "
        f"{count}",
    )
    each = cpus_per_worker(nodes, count * workers)
    resources = Resources(gpu=gpu, cpus=each, threads=run.threads or usual_threads(each))
    return Capacity(trials=count, workers=workers, resources=resources, gpu_share=search.gpu_share)
