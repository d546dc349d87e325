"""Hamilton layers: y = W x + bias with W = Σ_r H(Q_r) ⊗ B_r, the H(Q_r) from the shared bank.

With a factor for each of the S blocks of the input (`model.factors per-block`) W = Σ_r (H(Q_r) ⊗ I) · diag(B_{r,1}, …,
B_{r,S}): as many multiply-adds, and S times the parameters.

Shapes: `N` layers at once, `R` rank, `S` blocks of the input, `F` factor size (channels of a block), `D = S F` width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.kernels.weights import weight_sum
from h2q.layers import HAMILTON, PER_BLOCK
from h2q.layers.cores import generate, multiply
from h2q.quaternion import hamilton_matrix


class HamiltonLinear(nn.Module):
    """A layer's own part of its weight: `factors` (max rank, F, F), or (max rank, S, F, F) with one for each block, and
    `bias` (D,), zero until initialised."""

    def __init__(
        self,
        rank: int,
        blocks: int,
        factor: int,
        *,
        start_rank: int | None = None,
        unit: bool = True,
        per_block: bool = False,
    ) -> None:
        """`start_rank`: ranks that are active at first, None for all; `unit`: how `initialise` draws them."""
        super().__init__()
        self.structure = PER_BLOCK if per_block else HAMILTON
        sizes = self.structure.sizes(blocks * factor, blocks * factor, blocks * factor, factor, start_rank or rank)
        self.by_factors = self.structure.by_factors(sizes)
        self.factors = nn.Parameter(torch.zeros(rank, *[blocks] * per_block, factor, factor))
        self.bias = nn.Parameter(torch.zeros(blocks * factor))
        self._start_rank, self._unit = start_rank or rank, unit

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        """Draw the factors of the ranks that are active at first; published: Haar-orthogonal times (r+1)^-1/2, for any
        gain."""
        active = self.factors[: self._start_rank]
        if self._unit:
            # A row of H(Q_r) has norm² 4 when the components are orthogonal: R ranks × 4 × F channels × std² = 1.
            nn.init.normal_(active, std=gain * (4 * len(active) * active.shape[-1]) ** -0.5)
        else:
            for rank, factors in enumerate(active):
                for factor in factors.view(-1, *factors.shape[-2:]):
                    nn.init.orthogonal_(factor, gain=(rank + 1) ** -0.5)

    def forward(self, x: Tensor, matrices: Tensor) -> Tensor:
        """x (..., D) through this layer alone, with the Hamilton matrices (R, S, S) of the active ranks."""
        return functional.linear(x, generate_weights(matrices, [self])[0], self.bias)

    @staticmethod
    def multiply(layers: list["HamiltonLinear"], x: Tensor, matrices: Tensor) -> Tensor:
        """x (…, D) through N layers without their weights or biases → (…, N D): blocks first through their factors,
        then mixed by the Hamilton matrices (R, S, S)."""
        return multiply(layers[0].structure, x, matrices, [layer.factors[: len(matrices)] for layer in layers])


def new_layer(config: ModelConfig, inputs: int, outputs: int) -> HamiltonLinear:
    """A Hamilton layer of a model; it is square."""
    assert inputs == outputs == config.width, (inputs, outputs, config.width)
    return HamiltonLinear(
        config.storage_rank,
        config.blocks,
        config.factor,
        start_rank=config.fixed_rank,
        unit=config.init == "unit",
        per_block=config.factors == "per-block",
    )


def generate_weights(matrices: Tensor, layers: list[HamiltonLinear], dtype: torch.dtype | None = None) -> Tensor:
    """Weights (N, D, D) of layers that share one rank, from Hamilton matrices (R, S, S), cast once to `dtype`.

    Costs R D² a layer, nothing beside the n D² of the product with n positions.
    """
    dtype, structure = dtype or matrices.dtype, layers[0].structure
    if structure is PER_BLOCK:
        return generate(structure, matrices, [layer.factors[: len(matrices)] for layer in layers]).to(dtype)
    return weight_sum(matrices, dtype, [layer.factors for layer in layers])


def hamilton_linear_ref(x: Tensor, components: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """The formula as published, naively: the R × n × S × F intermediate laid out in memory.

    x (..., D), components (R, 4, s, s), factors (R, F, F) or (R, S, F, F), bias (D,) → (..., D).
    """
    blocks = x.reshape(-1, x.shape[-1] // factors.shape[-1], factors.shape[-1])
    mixed = torch.einsum("ntg,rtfg->rntf", blocks, factors if factors.dim() == 4 else factors[:, None])
    return torch.einsum("rntf,rst->nsf", mixed, hamilton_matrix(components)).reshape(x.shape) + bias
