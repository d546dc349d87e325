"""Where a worker stands: its number, how many there are, its device and its threads."""

import threading
import zlib
from dataclasses import dataclass
from typing import Any

import psutil
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from pipeline.training.allocator import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Which of the workers one is, and what it computes on."""

    world_rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes: journal, samples, checkpoints."""
        return self.world_rank == 0

    @property
    def cuda(self) -> bool:
        """Whether this worker computes on a GPU, where every look at a result waits for all work before it."""
        return self.device.type == "cuda"

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean over all workers, the same on each."""
        return self.sum(tensor) / self.world_size

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all workers, the same on each."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Tensors of one shape from all workers, one below the other, the same on each."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def means(self, values: list[torch.Tensor]) -> list[float]:
        """Means over all workers of scalars on the device, on the host; the list is emptied."""
        if not values:
            return []
        means = self.mean(torch.stack(values)).tolist()
        values.clear()
        return means

    def any(self, here: bool) -> bool:
        """Whether it holds on any worker; the same answer on each."""
        return here if self.world_size == 1 else bool(self.sum(torch.tensor(float(here), device=self.device)).item())

    def seed(self, seed: int, step: int) -> None:
        """What is drawn (dropout) is a function of seed, step and worker: a run that resumes draws the same."""
        torch.manual_seed(zlib.crc32(f"{seed} {step} {self.world_rank}".encode()))

    @property
    def name(self) -> str:
        """The device, for people."""
        threads = torch.get_num_threads()
        named = f"CPU ({threads} thread{'s' if threads > 1 else ''})"
        return torch.cuda.get_device_name(self.device) if self.cuda else named

    def describe(self) -> dict[str, Any]:
        """Device and number of workers, for people."""
        return {"device": self.name, "world_size": self.world_size}

    def peak_memory_bytes(self) -> int:
        """Largest memory held so far: allocated on the GPU, or resident in this process."""
        if self.cuda:
            return torch.cuda.max_memory_allocated(self.device)
        # The kernel's high-water mark where there is one (Linux), else what is resident now.
        try:
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        except (FileNotFoundError, StopIteration):
            return psutil.Process().memory_info().rss


def find_worker(*, use_gpu: bool, threads: int) -> Worker:
    """Which worker this is, as Ray Train says, and its process made ready for it: torch computes with `threads` CPU
    threads, and a local run keeps its memory."""
    torch.set_num_threads(threads)
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if use_gpu else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "cpu" and threading.current_thread() is threading.main_thread():
        keep_freed_memory()  # A thread of its own, as Ray's workers train in, has an arena that keeps most of it.
    return Worker(world_rank=context.get_world_rank(), world_size=context.get_world_size(), device=device)
