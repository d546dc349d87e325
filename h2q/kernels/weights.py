"""The sum of Kronecker products that makes the weights of Hamilton layers, with a backward pass of its own.

Shapes: `N` layers at once, `R` rank, `S` blocks, `F` factor size.
"""

import math

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

PARTS = 4
"""Into how many products that of a layer's weight is cut: with so few ranks one large product takes longer on two
threads (0.16 to 0.53 ms at preset `h2q`, for q, k and v) than on one (0.16), four small ones 0.10."""


def weight_sum(matrices: Tensor, dtype: torch.dtype, factors: list[Tensor]) -> Tensor:
    """Σ_r H_r ⊗ B_r for H (R, S, S) and N times B (max rank, F, F) → (N, S F, S F) in `dtype`."""
    return _WeightSum.apply(matrices, dtype, *factors)  # type: ignore[return-value]


class _WeightSum(Function):
    """Σ_r H_r ⊗ B_r for H (R, S, S) and N times B (max rank, F, F) → (N, S F, S F): products over r, and one copy that
    reorders and casts. Autograd's own backward of the same lines reorders twice and takes four times as long.

    The product over r, (S², R) by (R, N F²), is cut into one for each layer, on a CPU into PARTS: (R, F² / PARTS) each.
    """

    @staticmethod
    def forward(ctx, matrices: Tensor, dtype: torch.dtype, *factors: Tensor) -> Tensor:  # type: ignore[override]
        (rank, blocks, _), (ranks, size, _), count = matrices.shape, factors[0].shape, len(factors)
        parts = math.gcd(size, PARTS) if matrices.device.type == "cpu" else 1
        columns = torch.stack([factor[:rank] for factor in factors]).view(count, rank, parts, -1).transpose(1, 2)
        columns = columns.reshape(count * parts, rank, -1)
        rows = matrices.reshape(rank, -1)
        ctx.save_for_backward(rows, columns)
        ctx.sizes = (count, parts, rank, ranks, blocks, size)
        terms = torch.bmm(rows.t().expand(len(columns), -1, -1), columns)
        weights = torch.empty(count, blocks, parts, size // parts, blocks, size, dtype=dtype, device=terms.device)
        weights.permute(0, 2, 1, 4, 3, 5).copy_(terms.view(count, parts, blocks, blocks, size // parts, size))
        return weights.view(count, blocks * size, blocks * size)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, columns = ctx.saved_tensors
        count, parts, rank, ranks, blocks, size = ctx.sizes
        terms = torch.empty(count, parts, blocks, blocks, size // parts, size, dtype=columns.dtype, device=g.device)
        terms.copy_(g.view(count, blocks, parts, size // parts, blocks, size).permute(0, 2, 1, 4, 3, 5))
        terms = terms.view(count * parts, blocks * blocks, -1)
        for_matrices = torch.bmm(columns, terms.transpose(1, 2)).sum(0).view(rank, blocks, blocks)
        for_factors = torch.bmm(rows.expand(len(terms), -1, -1), terms)
        for_factors = for_factors.view(count, parts, rank, -1).transpose(1, 2).reshape(count, rank, size, size)
        if rank < ranks:
            for_factors = functional.pad(for_factors, (0, 0, 0, 0, 0, ranks - rank))
        return for_matrices, None, *for_factors
