"""Layers of the model's family, and the weights of several of them as one matrix.

Shapes: `D` width, `N` layers that read the same input, `R` rank, `S` blocks of a Kronecker product.
"""

from importlib import import_module

import torch
from torch import Tensor, nn

from h2q.config import ModelConfig
from h2q.kernels.linear import linear
from h2q.layers import FAMILIES
from h2q.layers.hamilton import generate_weights

Source = Tensor | dict[nn.Module, tuple[Tensor, Tensor]] | None
"""What the weights of a block's layers come from: Hamilton matrices (R, S, S), None if the layers have their own,
or made already, with the biases, by `h2q.block.prepare_weights`."""


def new_layer(config: ModelConfig, inputs: int = 1, outputs: int = 1) -> nn.Module:
    """A layer of the family that the config names, so many times the width in and out."""
    module, _, name = FAMILIES[config.kind].path.partition(":")
    return getattr(import_module(module), name)(config, inputs * config.width, outputs * config.width)


def by_factors(layers: list) -> bool:
    """Whether layers of this family and size multiply without a weight, which is faster in training then."""
    return getattr(layers[0], "by_factors", False)


def project(x: Tensor, layers: list, matrices: Source) -> Tensor:
    """x (…, I) through N layers that read it → (…, N O), by their weights or by their factors."""
    if by_factors(layers) and not isinstance(matrices, dict):
        return layers[0].multiply(layers, x, matrices) + bias_of(layers, matrices, x.dtype)
    return linear(x, weight_of(layers, matrices, x.dtype), bias_of(layers, matrices, x.dtype))


def weight_of(layers: list, matrices: Source, dtype: torch.dtype) -> Tensor:
    """Weights of N layers of one kind below one another, (N D, D), cast once to the dtype of the matrix products."""
    if isinstance(matrices, dict):
        return matrices[layers[0]][0]
    if matrices is not None:
        return generate_weights(matrices, layers, dtype).flatten(0, 1)
    weights = [layer.weight for layer in layers]
    return (torch.cat(weights) if len(weights) > 1 else weights[0]).to(dtype)


def bias_of(layers: list, matrices: Source, dtype: torch.dtype) -> Tensor:
    """Biases of N layers one behind the other, (N D,)."""
    if isinstance(matrices, dict):
        return matrices[layers[0]][1]
    biases = [layer.bias for layer in layers]
    return (torch.cat(biases) if len(biases) > 1 else biases[0]).to(dtype)
