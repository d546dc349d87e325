"""Bytes that a trained model takes when it is stored: int8, and of dense layers six bits and zstd, if that is less."""

from collections.abc import Sequence

import numpy as np
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.stored import int8_bytes, stored_bytes
from pipeline.corpus.compressors import compressors, xz_bytes
from pipeline.runs.folder import RunFolder


def stored(folder: RunFolder | None, model: ModelConfig) -> int:
    """Of the run in the folder (None: not trained to the end). Nothing is said of the bits that rounding costs: the six
    bits of dense layers are given for nothing. What no family makes (embedding, tables) is int8 in all of them."""
    plain = stored_bytes(model)
    if folder is None or model.kind != "dense":
        return plain
    from pipeline.runs.load import load_model

    try:
        named = load_model(folder)[0].blocks.named_parameters()
    except UserError:  # Its checkpoints were deleted.
        return plain
    matrices = [value.detach() for _, value in named if value.ndim > 1]
    return plain - max(0, sum(map(int8_bytes, matrices)) - six_bits(matrices))


def six_bits(matrices: Sequence[torch.Tensor]) -> int:
    """Rounded to 63 levels between a row's ends, one number a byte, compressed by zstd (xz where there is none), with a
    float16 scale for each row."""
    levels, rows = [], 0
    for matrix in matrices:
        scale = matrix.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 31
        levels.append((matrix / scale).round().to(torch.int8).numpy().view(np.uint8).ravel())
        rows += scale.numel()
    numbers = np.concatenate(levels)
    compress = compressors().get("zstd -22", xz_bytes)
    return compress([numbers], numbers.size) + 2 * rows
