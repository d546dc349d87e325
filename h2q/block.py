"""One block: attention and feed-forward branches, whose outputs are added to the residual stream.

Shapes: `B` lanes, `T` bytes of context, `D` width, `R` rank, `S` blocks of a Kronecker product.
"""

from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.kernels.linear import linear
from h2q.kernels.packed import can_pack, rotate_packed
from h2q.kernels.rotation import rotate_phase
from h2q.layers import FAMILIES
from h2q.layers.hamilton import generate_weights
from h2q.mixers.attention import attend, attend_published, planar_columns, planar_heads, planar_rows, rotate_phase_ref


def new_layer(config: ModelConfig, inputs: int = 1, outputs: int = 1) -> nn.Module:
    """A layer of the family that the config names, so many times the width in and out."""
    module, _, name = FAMILIES[config.kind].partition(":")
    return getattr(import_module(module), name)(config, inputs * config.width, outputs * config.width)


Source = Tensor | dict[nn.Module, tuple[Tensor, Tensor]] | None
"""What the weights of a block's layers come from: Hamilton matrices (R, S, S), None if the layers have their own,
or made already, with the biases, by `prepare_weights`."""


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


class Attention(nn.Module):
    """Four projections around causal attention; `matrices`: see `Source`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.published_layout = config.head_layout == "published"
        self.phase_rotation = config.phase_rotation
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (new_layer(config) for _ in range(4))

    def forward(self, x: Tensor, matrices: Source) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        inward = [self.q_proj, self.k_proj, self.v_proj]
        inward_weight, output_weight = (weight_of(layers, matrices, x.dtype) for layers in (inward, [self.o_proj]))
        bias = bias_of(inward, matrices, x.dtype)
        packed = can_pack(x.device, x.dtype)
        planar = self.phase_rotation and not self.published_layout and not packed
        if planar and not isinstance(matrices, dict):
            # Queries and keys come along: their dot product does not depend on the order of channels.
            inward_weight, bias = (planar_rows(rows, 3 * self.heads) for rows in (inward_weight, bias))
            output_weight = planar_columns(output_weight)
        qkv = linear(x, inward_weight, bias)
        if self.published_layout:
            y = attend_published(qkv, self.heads)
            y = rotate_phase_ref(y) if self.phase_rotation else y
        elif planar:
            y = rotate_phase(planar_heads(attend(qkv, self.heads))).reshape(x.shape)
        else:
            y = attend(qkv, self.heads).transpose(1, 2).flatten(-2)
            y = rotate_packed(y) if self.phase_rotation else y
        return linear(y, output_weight, bias_of([self.o_proj], matrices, x.dtype))


class FeedForward(nn.Module):
    """Hamilton → GELU → Hamilton, without expansion; dense layers may widen between the two."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = new_layer(config, outputs=config.ffn_expansion)
        self.fc2 = new_layer(config, inputs=config.ffn_expansion)

    def forward(self, x: Tensor, matrices: Source) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        for layer in (self.fc1, self.fc2):
            x = functional.gelu(x) if layer is self.fc2 else x
            x = linear(x, weight_of([layer], matrices, x.dtype), bias_of([layer], matrices, x.dtype))
        return x


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm. One stream: both add to it. Halves: each adds to its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention, self.ffn = Attention(config), FeedForward(config)

    def attention_branch(self, x: Tensor, matrices: Source, dtype: torch.dtype) -> Tensor:
        """What attention adds to the residual stream, (B, T, D) → (B, T, D) in `dtype`."""
        return self.attention(self.norm1(x).to(dtype), matrices)

    def ffn_branch(self, x: Tensor, matrices: Source, dtype: torch.dtype) -> Tensor:
        """What the feed-forward layers add to the residual stream, (B, T, D) → (B, T, D) in `dtype`."""
        return self.ffn(self.norm2(x).to(dtype), matrices)


def prepare_weights(
    blocks: list[Block], for_attention: Tensor, for_ffn: Tensor, dtype: torch.dtype
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Weights and biases of all Hamilton layers at once, by the first of the layers that are asked for together.

    For a GPU: two products and a few copies instead of some thirty small ones for each block. A CPU does better to make
    a weight just before it is used, while it is in its cache.
    """
    first, count = blocks[0].attention, len(blocks)
    inward = [layer for b in blocks for layer in (b.attention.q_proj, b.attention.k_proj, b.attention.v_proj)]
    outward = [block.attention.o_proj for block in blocks]
    hidden = [layer for block in blocks for layer in (block.ffn.fc1, block.ffn.fc2)]

    made = generate_weights(for_attention, [*inward, *outward], dtype)  # type: ignore[list-item]
    rows, columns = (part.flatten(0, 1) for part in made.split([len(inward), len(outward)]))
    biases = torch.cat([layer.bias for layer in (*inward, *outward, *hidden)]).to(dtype)  # type: ignore[arg-type]
    bias_rows, *others = biases.split([len(rows), len(columns), len(hidden) * rows.shape[1]])
    if first.phase_rotation and not first.published_layout and not can_pack(rows.device, dtype):
        rows, bias_rows = (planar_rows(part, 3 * first.heads * count) for part in (rows, bias_rows))
        columns = planar_columns(columns)
    groups = (
        (inward[::3], rows, bias_rows),
        (outward, columns, others[0]),
        (hidden, generate_weights(for_ffn, hidden, dtype).flatten(0, 1), others[1]),  # type: ignore[arg-type]
    )
    return {
        layer: (weight, bias)
        for layers, weights, bias in groups
        for layer, weight, bias in zip(
            layers, *(part.unflatten(0, (len(layers), -1)).unbind() for part in (weights, bias))
        )
    }


@torch.no_grad()
def stream_energy(first: Tensor, second: Tensor | None) -> Tensor:
    """Mean L2 norm over positions of the stream (B, T, D), or of its halves side by side: a scalar on its device."""
    norm = torch.linalg.vector_norm(first.detach(), dim=-1)
    if second is not None:
        norm = torch.hypot(norm, torch.linalg.vector_norm(second.detach(), dim=-1))
    return norm.mean()
