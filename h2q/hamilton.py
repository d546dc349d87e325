"""Hamilton layers: y = W x + bias with W = Σ_r H(Q_r) ⊗ B_r, the H(Q_r) from the shared bank.

Shapes: `N` layers at once, `R` rank, `S` blocks of the input, `F` factor size (channels of a block), `D = S F` width.
"""

import torch
from torch import Tensor, nn
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


def generate_weights(matrices: Tensor, layers: list[HamiltonLinear]) -> Tensor:
    """Weights (N, D, D) of layers that share one rank, from Hamilton matrices (R, S, S).

    Costs R D² a layer, nothing beside the n D² of the product with n positions; the sum over r is one GEMM.
    """
    rank, blocks = matrices.shape[:2]
    factors = torch.stack([layer.factors[:rank] for layer in layers])
    count, _, size, _ = factors.shape
    terms = matrices.view(rank, -1).t() @ factors.view(count, rank, -1)
    split = terms.view(count, blocks, blocks, size, size)
    return split.transpose(2, 3).reshape(count, blocks * size, blocks * size)


def hamilton_linear_ref(x: Tensor, components: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """The formula as published, naively: every term's R × n × S × F intermediate laid out in memory.

    x (..., D), components (R, 4, s, s), factors (R, F, F), bias (D,) → (..., D).
    """
    blocks = x.unflatten(-1, (-1, factors.shape[-1]))
    mixed = torch.einsum("rst,...tg->r...sg", hamilton_matrix(components), blocks)
    return torch.einsum("rfg,r...sg->...sf", factors, mixed).flatten(-2) + bias
