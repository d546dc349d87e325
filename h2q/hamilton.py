"""Hamilton layers: y = W x + bias with W = Σ_r H(Q_r) ⊗ B_r, the H(Q_r) from the shared bank.

Shapes: `N` layers at once, `R` rank, `S` blocks of the input, `F` factor size (channels of a block), `D = S F` width.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from h2q.quaternion import hamilton_matrix


class HamiltonLinear(nn.Module):
    """A layer's own part of its weight: `factors` (max rank, F, F) and `bias` (D,), zero until initialised."""

    def __init__(self, rank: int, blocks: int, factor: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(rank, factor, factor))
        self.bias = nn.Parameter(torch.zeros(blocks * factor))

    def forward(self, x: Tensor, matrices: Tensor) -> Tensor:
        """x (..., D) through this layer alone, with the Hamilton matrices (R, S, S) of the active ranks."""
        return functional.linear(x, generate_weights(matrices, [self])[0], self.bias)


def generate_weights(matrices: Tensor, layers: list[HamiltonLinear], dtype: torch.dtype | None = None) -> Tensor:
    """Weights (N, D, D) of layers that share one rank, from Hamilton matrices (R, S, S), cast once to `dtype`.

    Costs R D² a layer, nothing beside the n D² of the product with n positions.
    """
    factors = torch.stack([layer.factors[: len(matrices)] for layer in layers], dim=1)
    return _WeightSum.apply(matrices, factors, dtype or factors.dtype)  # type: ignore[return-value]


class _WeightSum(Function):
    """Σ_r H_r ⊗ B_r for H (R, S, S) and B (R, N, F, F) → (N, S F, S F): one product over r, one copy that reorders and
    casts. Autograd's own backward of the same lines reorders twice and takes four times as long."""

    @staticmethod
    def forward(ctx, matrices: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(matrices, factors)
        (rank, blocks, _), (_, count, size, _) = matrices.shape, factors.shape
        terms = matrices.reshape(rank, -1).t() @ factors.reshape(rank, -1)
        weights = torch.empty(count, blocks, size, blocks, size, dtype=dtype, device=terms.device)
        weights.copy_(terms.view(blocks, blocks, count, size, size).permute(2, 0, 3, 1, 4))
        return weights.view(count, blocks * size, blocks * size)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        matrices, factors = ctx.saved_tensors
        (rank, blocks, _), (_, count, size, _) = matrices.shape, factors.shape
        terms = torch.empty(blocks, blocks, count, size, size, dtype=factors.dtype, device=g.device)
        terms.copy_(g.view(count, blocks, size, blocks, size).permute(1, 3, 0, 2, 4))
        terms = terms.view(blocks * blocks, -1)
        for_matrices = factors.reshape(rank, -1) @ terms.t()
        for_factors = matrices.reshape(rank, -1) @ terms
        return for_matrices.view_as(matrices), for_factors.view_as(factors), None


def hamilton_linear_ref(x: Tensor, components: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """The formula as published, naively: the R × n × S × F intermediate laid out in memory.

    x (..., D), components (R, 4, s, s), factors (R, F, F), bias (D,) → (..., D).
    """
    blocks = x.reshape(-1, x.shape[-1] // factors.shape[-1], factors.shape[-1])
    mixed = torch.einsum("ntg,rfg->rntf", blocks, factors)
    return torch.einsum("rntf,rst->nsf", mixed, hamilton_matrix(components)).reshape(x.shape) + bias
