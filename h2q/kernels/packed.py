"""The phase rotation on a GPU, where four channels of a quaternion lie side by side.

One kernel forward and one backward, in Triton, which read and write each number once, instead of some thirty: with so
little arithmetic in a block, these took as long as all its matrix products.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from h2q.kernels.rotation import PHASE_EPS
from h2q.kernels.triton_there import takes_triton

QUATERNIONS = 512
"""Quaternions of a program."""


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `rotate_packed` works here."""
    return takes_triton(device) and dtype in (torch.float32, torch.bfloat16, torch.float16)


def rotate_packed(y: Tensor) -> Tensor:
    """`attention.rotate_phase_ref` on channels (..., D) of a GPU, with the arithmetic in float32."""
    return _Packed.apply(y)  # type: ignore[return-value]


class _Packed(Function):
    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:  # type: ignore[override]
        from h2q.kernels import triton_training

        y = y.contiguous()
        ctx.save_for_backward(y)
        kernel: Any = triton_training.rotate_phase
        kernel[_programs(y)](y, out := torch.empty_like(y), y.numel() // 4, PHASE_EPS, QUATERNIONS=QUATERNIONS)
        return out

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[override]
        from h2q.kernels import triton_training

        (y,) = ctx.saved_tensors
        to_y = torch.empty_like(y)
        kernel: Any = triton_training.rotate_phase_backward
        kernel[_programs(y)](y, g.contiguous(), to_y, y.numel() // 4, PHASE_EPS, QUATERNIONS=QUATERNIONS)
        return to_y


def _programs(y: Tensor) -> tuple[int]:
    return (-(-y.numel() // (4 * QUATERNIONS)),)
