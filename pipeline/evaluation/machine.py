"""What an evaluation computes with: the arithmetic of each process, and how many processes there are."""

from dataclasses import dataclass, replace

import torch

from h2q.errors import require
from pipeline.cluster.resources import find_resources, local_resources
from pipeline.evaluation.config import EvaluationConfig
from pipeline.training.precision import check_precision


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one process computes with: its figures' last digits depend on this, and on nothing else of the machine."""

    precision: str
    gpu: bool
    threads: int
    """CPU threads of torch."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.gpu else "cpu")

    def __str__(self) -> str:
        return "GPU" if self.gpu else f"CPU, {self.threads} thread{'s' if self.threads > 1 else ''}"


def find_machine(options: EvaluationConfig, trained_in: str) -> Machine:
    """What each process computes with, in the precision that the run trained in unless the options name another.
    What a cluster has is known only when Ray is up.

    Raises: UserError for a GPU or a precision that this machine has not.
    """
    precision = options.precision or trained_in
    here = options.here
    gpu = here and local_resources(options.use_gpu).gpu
    if here and not gpu:
        check_precision(precision, "cpu")
    threads = options.threads or (torch.get_num_threads() if options.mode == "prequential" else 1)
    return Machine(precision=precision, gpu=gpu, threads=threads)


def find_workers(options: EvaluationConfig, machine: Machine, batches: int) -> tuple[int, Machine]:
    """How many workers the cluster has for so many batches, and what each computes with.

    Raises: UserError if the cluster has not so many CPUs or GPUs.
    """
    import ray

    gpu = find_resources(1, options.use_gpu).gpu
    if not gpu:
        check_precision(machine.precision, "cpu")
    total = ray.cluster_resources()
    room = int(total["GPU"]) if gpu else max(1, int(total["CPU"]) // machine.threads)
    workers = options.workers or min(room, batches)
    find_resources(workers, options.use_gpu)
    require(
        workers * machine.threads <= total["CPU"],
        f"{workers} workers of {machine.threads} threads need {workers * machine.threads} CPUs, the cluster has "
        f"{int(total['CPU'])}: use --threads {max(1, int(total['CPU']) // workers)}",
    )
    return workers, replace(machine, gpu=gpu)
