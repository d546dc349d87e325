"""The products of decoding: N layers that read the same input, by their weights or by their Kronecker factors.

Shapes: `n` positions, `D` width of a half (or of the stream), `N` layers, `R` rank, `S` blocks, `F` factor size.
*Formed* is the shape in which products take one position: (S, F) with the factors, (D,) with the weights.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from h2q.layers.source import weight_of


class Product(Protocol):
    """N layers that read the same input."""

    def one(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """One position, formed → formed, for N > 1 (N, S, F) or (N D,)."""
        ...

    def add(self, x: Tensor, stream: Tensor) -> None:
        """Add the image of x to the stream, formed both; N = 1."""
        ...

    def all(self, x: Tensor) -> Tensor:
        """(n, D) → (n, N, D)."""
        ...


class SharedMatrices:
    """What all layers of one rank share: Hamilton matrices (R, S, S), and with rows (s, r) for the factor form."""

    def __init__(self, matrices: Tensor, factored: bool) -> None:
        rank, blocks, _ = matrices.shape
        self.matrices, self.factored = matrices, factored
        self.mix = matrices.transpose(0, 1).reshape(blocks * rank, blocks)


def new_product(
    layers: list, shared: SharedMatrices | None, *, gains: tuple[float, ...] = (1,), inner: float = 1
) -> Product:
    """gains · (W (inner · x) + bias), a gain for each layer: constants of what comes before and behind cost nothing."""
    outer = layers[0].bias.new_tensor(gains).view(-1, 1)
    bias = torch.stack([layer.bias for layer in layers]) * outer
    if shared is not None and shared.factored:
        return _Factors(layers, shared, bias, outer * inner)
    weight = weight_of(layers, None if shared is None else shared.matrices, bias.dtype)
    return _Weights((weight.unflatten(0, (len(layers), -1)) * (outer * inner)[..., None]).flatten(0, 1), bias)


class _Weights:
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias, self._count = weight, bias.flatten(), len(bias)

    def one(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addmv(self._bias, self._weight, x, out=out)

    def add(self, x: Tensor, stream: Tensor) -> None:
        stream.addmv_(self._weight, x).add_(self._bias)

    def all(self, x: Tensor) -> Tensor:
        return functional.linear(x, self._weight, self._bias).view(len(x), self._count, -1)


class _Factors:
    """y = Σ_r (H_r ⊗ B_r) x without W: with x as S blocks X (S, F), it is Σ_r H_r X B_rᵀ. First all H_r X as one
    product, laid out (S, R F); then one product with the B_rᵀ below one another, (R F, F)."""

    def __init__(self, layers: list, shared: SharedMatrices, bias: Tensor, gains: Tensor) -> None:
        rank, blocks, _ = shared.matrices.shape
        size = layers[0].factors.shape[-1]
        terms = [layer.factors[:rank].transpose(1, 2).reshape(rank * size, size) for layer in layers]
        self._mix, self._bias = shared.mix, bias.view(-1, blocks, size)
        self._factors = torch.stack(terms) * gains[..., None]
        self._only_factors, self._only_bias = self._factors[0], self._bias[0]
        self._blocks, self._size = blocks, size

    def one(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        mixed = torch.mm(self._mix, x).view(self._blocks, -1)
        if len(self._factors) == 1:
            return torch.addmm(self._only_bias, mixed, self._only_factors, out=out)
        return torch.baddbmm(self._bias, mixed.expand(len(self._factors), -1, -1), self._factors, out=out)

    def add(self, x: Tensor, stream: Tensor) -> None:
        stream.addmm_(torch.mm(self._mix, x).view(self._blocks, -1), self._only_factors).add_(self._only_bias)

    def all(self, x: Tensor) -> Tensor:
        mixed = (self._mix @ x.view(len(x), self._blocks, self._size)).view(len(x) * self._blocks, -1)
        y = torch.matmul(mixed, self._factors).view(len(self._factors), len(x), -1)
        return (y + self._bias.view(len(self._factors), 1, -1)).transpose(0, 1)
