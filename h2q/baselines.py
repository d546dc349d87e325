"""Dense transformers of the same size as a given model, and the exact counts that say what the same size is.

A baseline is a plain pre-norm transformer: ordinary matrices, one stream, the same causal attention without phase
rotation, feed-forward layers four times as wide; alphabet, window, embeddings, norms, dropout and initialisation are
the given model's. Of the shapes whose count comes within 2 % of the wanted one, it has that whose proportions (width
to depth, and size of a head) are nearest to the given model's; where none comes so near, the nearest count.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from h2q.config import ModelConfig

EXPANSION = 4
"""Of the feed-forward layers, as in Vaswani et al., "Attention is all you need" (2017)."""

TOLERANCE = 0.02
MIXING_LAYERS = {"attention": 4, "state": 4, "both": 8}
"""Layers of the model's family in each mixer."""

GRAIN = 2
"""Widths are multiples of this."""


def dense_of_equal_parameters(config: ModelConfig) -> ModelConfig:
    """The dense transformer with as many parameters; with growth, as many as the largest rank has."""
    return _nearest(config, parameters(config), parameters)


def dense_of_equal_multiply_adds(config: ModelConfig) -> ModelConfig:
    """The dense transformer with as many multiply-adds a byte."""
    return _nearest(config, multiply_adds(config), multiply_adds)


def parameters(config: ModelConfig) -> int:
    """Trainable numbers of `ByteModel(config)`, inactive ranks in storage included."""
    if config.kind not in ("hamilton", "dense") or config.mixer not in MIXING_LAYERS:
        return _counted(config)
    width, block, mixing = config.width, 4 * config.width, MIXING_LAYERS[config.mixer]  # Two norms.
    hidden = config.ffn_expansion * width
    block += (mixing + 1) * width + hidden  # Biases.
    block += config.heads if config.order == "relative" else 0
    bank = 0
    if config.kind == "dense":
        block += mixing * width**2 + 2 * width * hidden
    else:
        block += (mixing + 2) * config.storage_rank * config.factor**2
        bank = config.storage_rank * config.blocks**2 // 4
    positions = config.seq_len if config.order == "learned" else 0
    embeddings = (config.vocab * (1 if config.tied_embeddings else 2) + positions) * config.dim + config.vocab
    return embeddings + bank + config.depth * block + (2 * config.dim if config.final_norm else 0)


def _counted(config: ModelConfig) -> int:
    """Of a family or a mixer without a formula: models of one and of two blocks, without storage, are counted."""
    import torch

    from h2q.model import ByteModel

    counts = []
    for depth in (1, 2):
        with torch.device("meta"):
            counts.append(sum(each.numel() for each in ByteModel(replace(config, depth=depth)).parameters()))
    return counts[0] + (config.depth - 1) * (counts[1] - counts[0])


def multiply_adds(config: ModelConfig) -> int:
    """Of a forward pass in training, per byte of a full window: products of layers, attention and head.

    Attention computes all pairs of positions, masked ones too. A Hamilton layer is one product with its generated
    weight, as a dense layer is; generating it is left out: once a step, whatever the batch (`generation`). Any other
    family is counted as if dense, any other mixer as if attention. What a state takes for each channel is left out.
    """
    width = config.width
    layers = (MIXING_LAYERS.get(config.mixer, 4) + 2 * config.ffn_expansion) * width**2
    pairs = 2 * config.seq_len * width if config.mixer != "state" else 0
    return config.depth * (layers + pairs) + config.dim * config.vocab


def generation(config: ModelConfig) -> int:
    """Multiply-adds of one generation of all weights from bank and factors, at the rank that the model starts with."""
    layers = MIXING_LAYERS.get(config.mixer, 4) + 2
    return 0 if config.kind != "hamilton" else config.depth * layers * config.fixed_rank * config.width**2


def _nearest(config: ModelConfig, wanted: int, count: Callable[[ModelConfig], int]) -> ModelConfig:
    def error(shape: ModelConfig) -> float:
        return abs(count(shape) / wanted - 1)

    def stretch(shape: ModelConfig) -> float:
        head = math.log(shape.width / shape.heads * config.heads / config.width)
        return abs(head) + abs(math.log(shape.dim / shape.depth * config.depth / config.dim))

    shapes = [shape for depth in range(1, 2 * config.depth + 1) for shape in _around(config, depth, wanted, count)]
    near = [shape for shape in shapes if error(shape) <= TOLERANCE]
    return min(near, key=lambda shape: (stretch(shape), error(shape))) if near else min(shapes, key=error)


def _around(config: ModelConfig, depth: int, wanted: int, count: Callable[[ModelConfig], int]) -> Iterator[ModelConfig]:
    """The shapes of this depth just below and above the wanted count, which grows with the width."""
    low, high = 1, 2
    while count(_dense(config, depth, high * GRAIN)) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(_dense(config, depth, middle * GRAIN)) < wanted else (low, middle)
    yield from (_dense(config, depth, width * GRAIN) for width in (low, high))


def _dense(config: ModelConfig, depth: int, dim: int) -> ModelConfig:
    size = config.width // config.heads
    heads = min((n for n in range(1, dim + 1) if dim % n == 0), key=lambda n: abs(math.log(dim / n / size)))
    return replace(
        config,
        kind="dense",
        mixer="attention",
        rotation="none",
        dim=dim,
        depth=depth,
        heads=heads,
        halves=False,
        phase_rotation=False,
        ffn_expansion=EXPANSION,
        memory="store",
        head_layout="split",
    )
