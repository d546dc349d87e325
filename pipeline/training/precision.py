"""Arithmetic of the matrix products: which precisions a device can do, and how they are switched on."""

import contextlib
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


def check_precision(precision: str, device: "torch.device | str") -> None:
    """Raises: UserError if the device cannot compute in this precision."""
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
