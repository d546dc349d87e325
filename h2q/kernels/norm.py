"""What lies between two branches: what the last one gave is added to the residual stream, which the next one reads
normalised.

On a GPU with Triton that is one kernel forward and one backward: sum, LayerNorm and cast read and write every number
once. Apart they take as long as the matrix products of the branch. Shapes: `n` positions, in any number of dimensions,
`D` width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from h2q.kernels.columns import add_up
from h2q.kernels.triton_there import power_of_two, programs, takes_triton

WIDEST = 8192
"""Widths up to which a program holds whole rows."""

TILE = 2048
"""Numbers that a program holds at a time, if a row is no longer."""


def add_norm(stream: Tensor, added: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """stream (n, D), and what is added to it, (n, D) of any dtype or nothing → the sum, in the dtype of the stream, and
    norm(sum) in `dtype`."""
    if takes_triton(stream.device) and stream.dtype == torch.float32 and stream.shape[-1] <= WIDEST:
        return fused_add_norm(stream, added, norm.weight, norm.bias, norm.eps, dtype)
    if added is not None:
        stream = stream + added
    return stream, norm(stream).to(dtype)


def fused_add_norm(
    stream: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`add_norm` in one kernel."""
    total, normed = _AddNorm.apply(stream, added, weight, bias, eps, dtype)  # type: ignore[misc]
    return (stream if added is None else total), normed


class _AddNorm(Function):
    @staticmethod
    def forward(
        ctx, stream: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ):  # type: ignore[override]
        from h2q.kernels import triton_training

        ctx.set_materialize_grads(False)
        shape, width = stream.shape, stream.shape[-1]
        rows = _rows(stream)
        total = rows if added is None else torch.empty(len(rows), width, dtype=stream.dtype, device=stream.device)
        normed = torch.empty(len(rows), width, dtype=dtype, device=stream.device)
        moments = torch.empty(2, len(rows), dtype=stream.dtype, device=stream.device)
        columns = power_of_two(width)
        tile = max(1, TILE // columns)
        addend = rows if added is None else _rows(added)
        kernel: Any = triton_training.add_norm
        kernel[(-(-len(rows) // tile),)](
            rows, addend, weight, bias, total, normed, moments,
            len(rows), width, rows.stride(0), addend.stride(0), eps,
            ADD=added is not None, ROWS=tile, COLUMNS=columns,
        )  # fmt: skip
        ctx.save_for_backward(total, weight, moments)
        ctx.added = None if added is None else added.dtype
        # A stream that nothing was added to is its own sum, which is not given back twice.
        return None if added is None else total.view(shape), normed.view(shape)

    @staticmethod
    def backward(ctx, to_total: Tensor | None, to_normed: Tensor | None):  # type: ignore[override]
        from h2q.kernels import triton_training

        total, weight, moments = ctx.saved_tensors
        assert to_normed is not None
        shape, width, count = to_normed.shape, total.shape[-1], len(total)
        to_stream = torch.empty(count, width, dtype=total.dtype, device=total.device)
        to_added = None if ctx.added is None else torch.empty_like(to_stream, dtype=ctx.added)
        columns = power_of_two(width)
        tile = max(1, TILE // columns)
        several = programs(total.device, -(-count // tile), 2)
        turns = -(-count // (tile * several))
        to_norm = torch.empty(several, 2 * width, dtype=total.dtype, device=total.device)
        normed, behind = _rows(to_normed), total if to_total is None else _rows(to_total)
        kernel: Any = triton_training.add_norm_backward
        kernel[(several,)](
            total, weight, moments, normed, behind, to_stream, to_stream if to_added is None else to_added, to_norm,
            count, width, total.stride(0), normed.stride(0), behind.stride(0), turns,
            BEHIND=to_total is not None, ADD=to_added is not None, ROWS=tile, COLUMNS=columns,
        )  # fmt: skip
        to_weight, to_bias = add_up(to_norm, weight.dtype).chunk(2)
        to_added = None if to_added is None else to_added.view(shape)
        return to_stream.view(shape), to_added, to_weight, to_bias, None, None


def _rows(x: Tensor) -> Tensor:
    """(…, D) as rows (n, D) whose numbers lie side by side; a view where that can be."""
    rows = x.flatten(0, -2)
    return rows if rows.stride(-1) == 1 else rows.contiguous()
