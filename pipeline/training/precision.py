"""Arithmetic of the matrix products: which precisions a device can do, and how they are switched on."""

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from h2q.errors import require

if TYPE_CHECKING:  # torch takes seconds to load: what a CPU can do is known without it
    import torch

Autocast = Callable[[], contextlib.AbstractContextManager]
"""Makes the context of a forward pass."""

_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
"""Precision → name of torch's dtype."""


def setup_precision(precision: str, device: "torch.device") -> Autocast:
    """Set torch's switches for this precision and return what makes the context of a forward pass.

    Raises: UserError if the device cannot compute in this precision.
    """
    import torch

    check_precision(precision, device)
    if device.type == "cuda":
        # Sets torch's older and newer switches alike: where they differ, torch refuses to read the older ones.
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision in _AUTOCAST:
        dtype = getattr(torch, _AUTOCAST[precision])
        # The generated weight is used once a forward pass, so autocast's cache would only hold memory.
        return lambda: torch.autocast(device.type, dtype=dtype, cache_enabled=False)
    return contextlib.nullcontext


def chosen_precision(precision: str, *, gpu: bool, say: Callable[[str], None], local: bool = True) -> str:
    """The precision itself, or for `auto` the faster one of bf16 and fp32: on a GPU bf16, on a CPU what products take
    less time in, here or (not `local`) where Ray puts a worker. `say` is told which, and why."""
    if precision != "auto":
        return precision
    if gpu:
        say("precision auto: bf16, on a GPU")
        return "bf16"
    if local:
        wide, narrow = _seconds()
    else:
        import ray

        wide, narrow = ray.get(ray.remote(num_cpus=1)(_seconds).remote())  # a driver has no other use for torch
    chosen = "bf16" if narrow < WORTH * wide else "fp32"
    say(f"precision auto: {chosen}, a product in bf16 takes {narrow / wide:.2g} × the time of one in fp32 on this CPU")
    return chosen


def _seconds() -> tuple[float, float]:
    """Of a product in fp32 and in bf16."""
    import torch

    return product_seconds(torch.float32), product_seconds(torch.bfloat16)


WORTH = 0.9
"""Of the time of fp32 that a product in bf16 may take: casts and a coarser gradient are not free."""


def product_seconds(dtype: "torch.dtype") -> float:
    """Of a product as a layer's with 1024 positions: the least of five, on this thread's own clock: what loads
    libraries meanwhile keeps it waiting for longer than a product takes."""
    import torch

    x, weight = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    seconds = []
    for _ in range(6):  # the first one loads what computes it
        began = time.thread_time()
        torch.nn.functional.linear(x, weight)
        seconds.append(time.thread_time() - began)
    return min(seconds[1:])


def check_precision(precision: str, device: "torch.device | str") -> None:
    """Raises: UserError if the device cannot compute in this precision."""
    require(precision != "auto", "precision auto is for a run that begins: name one here, as --precision fp32")
    if precision == "tf32":
        require(
            _is_cuda(device) and _capability(device) >= (8, 0),
            f"precision tf32 needs a CUDA device of compute capability 8.0 or more, found {_describe(device)}: "
            "use --precision fp32 or bf16",
        )
    if precision == "bf16" and _is_cuda(device):
        import torch

        require(
            torch.cuda.is_bf16_supported(including_emulation=False),
            f"precision bf16 is not supported by {_describe(device)}: use --precision fp16",
        )


def _is_cuda(device: "torch.device | str") -> bool:
    return str(device).startswith("cuda")


def _capability(device: "torch.device | str") -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability(device)


def _describe(device: "torch.device | str") -> str:
    if not _is_cuda(device):
        return f"a {str(device).upper()}"
    import torch

    return f"{torch.cuda.get_device_name(device)} ({'.'.join(map(str, _capability(device)))})"
