"""Layers whose weight is made of two cores, for the families that `h2q.layers.structure` describes.

Shapes: `N` layers at once, `n` positions, `I` inputs, `O` outputs, `R` rank.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from h2q.config import ModelConfig
from h2q.layers import growing
from h2q.layers.structure import Sizes, Structure, volume


class CoreLinear(nn.Module):
    """Cores `factors` and `mixing`, and `bias` (O,), zero until initialised. Storage for ranks that growth has not
    reached is zero in both cores, so that they get no gradient."""

    def __init__(self, structure: Structure, sizes: Sizes, start_rank: int) -> None:
        """`start_rank`: ranks that are active at first, where the family has ranks that grow."""
        super().__init__()
        self.structure, self.by_factors = structure, structure.by_factors(sizes)
        self.factors = nn.Parameter(torch.zeros([sizes[letter] for letter in structure.factors]))
        self.mixing = nn.Parameter(torch.zeros([sizes[letter] for letter in structure.mixing]))
        self.bias = nn.Parameter(torch.zeros(volume(structure.writes, sizes)))
        active = sizes | {"r": min(start_rank, sizes["r"])}
        fan_ins = {name: volume(letters, active) for name, letters in structure.fan_ins.items()}
        self._active, self._fan_ins = active["r"], fan_ins
        inputs = volume(structure.reads, sizes)
        self.rates = {name: inputs / fan_in / len(fan_ins) for name, fan_in in fan_ins.items()}
        """Adam's rate falls with what a core sums over, as a dense layer's does, and is shared among the cores (Qiu et
        al. 2024, section 4)."""

    @property
    def weight(self) -> Tensor:
        """(O, I)."""
        return generate(self.structure, self.mixing, [self.factors])[0]

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        """Draw each core with variance 1 / fan-in, so that a unit-variance input leaves with variance gain²."""
        nn.init.normal_(self.factors[: self._active], std=self._fan_ins["factors"] ** -0.5)
        nn.init.normal_(self.mixing[: self._active], std=gain * self._fan_ins["mixing"] ** -0.5)

    @torch.no_grad()
    def grow(self, rank: int, generator: torch.Generator) -> None:
        """Draw the factors of one more rank, whose mixing is zero still and gets a gradient from now on."""
        drawn = torch.randn(self.factors[rank].shape, generator=generator)
        self.factors[rank].copy_(drawn * self._fan_ins["factors"] ** -0.5)

    @staticmethod
    def multiply(layers: Sequence[Any], x: Tensor, matrices: Tensor | None) -> Tensor:
        """W x of N layers on one input, without W: x (…, I) → (…, N O)."""
        mixing = torch.stack([layer.mixing for layer in layers])
        return multiply(layers[0].structure, x, mixing, [layer.factors for layer in layers])


def new_layer(config: ModelConfig, inputs: int, outputs: int) -> CoreLinear:
    """A layer of the family that the config names."""
    assert config.structure is not None
    sizes = config.sizes(inputs, outputs, config.storage_rank)
    return CoreLinear(config.structure, sizes, config.fixed_rank if config.kind in growing() else sizes["r"])


def generate(structure: Structure, mixing: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Weights (N, O, I) of layers from their factors, and the mixing that they share."""
    axes = f"{structure.mixing},l{structure.factors}->l{structure.writes}{structure.reads}"
    weights = torch.einsum(axes, mixing, torch.stack(list(factors)))
    outputs = len(structure.writes)
    return weights.flatten(1, outputs).flatten(2)


def multiply(structure: Structure, x: Tensor, mixing: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """x (…, I) through the cores of N layers → (…, N O), in the dtype of x; `mixing` with a dimension in front for the
    layers, or without where they share it."""
    stacked = torch.stack(list(factors)).to(x.dtype)
    rows = x.flatten(0, -2)
    rows = rows.unflatten(1, (-1, stacked.shape[-1])) if len(structure.reads) > 1 else rows
    between = torch.einsum(f"l{structure.factors},n{structure.reads}->nl{structure.between}", stacked, rows)
    own = "" if structure.shared else "l"
    axes = f"{own}{structure.mixing},nl{structure.between}->nl{structure.writes}"
    return torch.einsum(axes, mixing.to(x.dtype), between).reshape(*x.shape[:-1], -1)
