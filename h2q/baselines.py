"""Dense transformers of the same size as a given model, and the exact counts that say what the same size is.

A baseline is a plain pre-norm transformer: ordinary matrices, one stream, the same mixer without rotations,
feed-forward layers four times as wide; alphabet, window, embeddings, tables of n-grams, norms, dropout and
initialisation are the given model's. Of the shapes whose count comes within 2 % of the wanted one, it has that whose
proportions (width to depth, and size of a head) are nearest to the given model's; where none comes so near, the nearest
count.
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
    plain = config.structure or config.kind == "dense"
    if not plain or config.mixer not in MIXING_LAYERS or config.strides != "off":
        return _counted(config)
    block = (4 if config.feed_forward else 2) * config.width  # Norms.
    block += config.heads if config.order == "relative" else 0
    for inputs, outputs in _layers(config):
        block += outputs  # Bias.
        if config.structure is None:
            block += inputs * outputs
        else:
            block += config.structure.parameters(config.sizes(inputs, outputs, config.storage_rank))
    bank = config.storage_rank * config.blocks**2 // 4 if config.kind == "hamilton" else 0
    positions = config.seq_len if config.order == "learned" else 0
    embeddings = sum(table.rows * table.width for table in config.tables)
    embeddings += (config.vocab * (1 if config.tied_embeddings else 2) + positions) * config.dim + config.vocab
    return embeddings + bank + config.depth * block + (2 * config.dim if config.final_norm else 0)


def _counted(config: ModelConfig) -> int:
    """Of what has no formula here: models of one and of two blocks, without storage, are counted."""
    from h2q.model import ByteModel
    from h2q.shapes import shapes_only

    counts = []
    for depth in (1, 2):
        with shapes_only():
            counts.append(sum(each.numel() for each in ByteModel(replace(config, depth=depth)).parameters()))
    return counts[0] + (config.depth - 1) * (counts[1] - counts[0])


def multiply_adds(config: ModelConfig) -> int:
    """Of a forward pass in training, per byte of a full window: products of layers, attention and head.

    Attention computes all pairs of positions, masked ones too. A layer is one product with its weight, or two with its
    cores where it multiplies by them; generating a weight is left out: once a step, whatever the batch (`generation`).
    A family without a structure is counted as if dense, any other mixer as if attention. What a state takes for each
    channel is left out.
    """
    pairs = 2 * config.seq_len * config.width if config.mixer != "state" else 0
    return config.depth * (products(config) + pairs) + config.dim * config.vocab


def generation(config: ModelConfig) -> int:
    """Multiply-adds of one generation of all weights that are built, at the rank that the model starts with."""
    return config.depth * sum(_cost(config, *widths)[1] for widths in _layers(config))


def products(config: ModelConfig) -> int:
    """Multiply-adds of the layers of a block, for each byte."""
    return sum(_cost(config, *widths)[0] for widths in _layers(config))


def _layers(config: ModelConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers of a block, in channels."""
    width, hidden = config.width, config.ffn_expansion * config.width
    feeding = [(width, hidden), (hidden, width)] if config.feed_forward else []
    return [(width, width)] * MIXING_LAYERS.get(config.mixer, 4) + feeding


def _cost(config: ModelConfig, inputs: int, outputs: int) -> tuple[int, int]:
    """Multiply-adds of a layer: for each position, and of one generation of its weight."""
    if config.structure is None:
        return inputs * outputs, 0
    # Hamilton layers leave ranks out that are not active; the others' are zero.
    rank = config.fixed_rank if config.kind == "hamilton" else config.storage_rank
    sizes = config.sizes(inputs, outputs, rank)
    if config.structure.by_factors(sizes):
        return config.structure.multiply_adds(sizes), 0
    return inputs * outputs, config.structure.generation(sizes)


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
    low = max([1, *(-(-table.order // GRAIN) for table in config.tables)])
    high = 2 * low
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
        factors="shared",
        feed_forward=True,
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
