"""Bytes of a model as it would be stored: int8 with a scale for each row, the bank and vectors as float16."""

import torch

from h2q.config import ModelConfig
from h2q.model import ByteModel
from h2q.shapes import shapes_only


def stored_bytes(config: ModelConfig) -> int:
    """Of all parameters, inactive ranks in storage included; the structure bank, whose error would be everywhere, and
    vectors in float16."""
    with shapes_only():
        named = dict(ByteModel(config).named_parameters())
    return sum(
        2 * value.numel() if value.ndim < 2 or name.startswith("bank.") else int8_bytes(value)
        for name, value in named.items()
    )


def int8_bytes(matrix: torch.Tensor) -> int:
    """A byte a number and a float16 scale for each row of the last axis."""
    return matrix.numel() + 2 * matrix.numel() // matrix.shape[-1]
