"""Arithmetic of the matrix products: which precisions a device can do, and how they are switched on."""

import contextlib
from collections.abc import Callable

import torch

from h2q.config import require

Autocast = Callable[[], contextlib.AbstractContextManager]
"""Makes the context of a forward pass."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def setup_precision(precision: str, device: torch.device) -> Autocast:
    """Set torch's switches for this precision and return what makes the context of a forward pass.

    Raises: UserError if the device cannot compute in this precision.
    """
    check_precision(precision, device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    if precision in _AUTOCAST:
        # The generated weight is used once a forward pass, so autocast's cache would only hold memory.
        return lambda: torch.autocast(device.type, dtype=_AUTOCAST[precision], cache_enabled=False)
    return contextlib.nullcontext


def check_precision(precision: str, device: torch.device | str) -> None:
    """Raises: UserError if the device cannot compute in this precision."""
    device = torch.device(device)
    if precision == "tf32":
        require(
            device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0),
            f"precision tf32 needs a CUDA device of compute capability 8.0 or more, found {_describe(device)}: "
            "use --precision fp32 or bf16",
        )
    if precision == "bf16" and device.type == "cuda":
        require(
            torch.cuda.is_bf16_supported(including_emulation=False),
            f"precision bf16 is not supported by {_describe(device)}: use --precision fp16",
        )


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return f"a {device.type.upper()}"
    return f"{torch.cuda.get_device_name(device)} ({'.'.join(map(str, torch.cuda.get_device_capability(device)))})"
