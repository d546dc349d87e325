"""Whether kernels written in Triton run here: it comes with torch for CUDA on Linux, and calls a C compiler."""

import importlib.util
import os
import shutil
from functools import cache

import torch


def takes_triton(device: torch.device) -> bool:
    """Whether tensors on this device may go to a Triton kernel."""
    return device.type == "cuda" and triton_works()


@cache
def triton_works() -> bool:
    """Whether Triton and the compiler that it calls are there."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    return importlib.util.find_spec("triton") is not None and compiler is not None


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least this number."""
    return 1 << (number - 1).bit_length()


def programs(device: torch.device, pieces: int, each: int) -> int:
    """Programs for so many pieces of work, at most `each` for a multiprocessor: where there are more pieces a program
    takes several, so that what they add up on the way is short."""
    most = each * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3
    return min(pieces, most)
