"""One block: a mixer and feed-forward layers, whose outputs are added to the residual stream.

Shapes: `B` lanes, `T` bytes of context, `D` width, `R` rank, `S` blocks of a Kronecker product.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.kernels.norm import add_norm
from h2q.layers.hamilton import generate_weights
from h2q.layers.source import Source, bias_of, new_layer, project, weight_of
from h2q.mixers import MIXERS


class FeedForward(nn.Module):
    """Layer → GELU → layer; those of a family that is not square may widen between the two."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = new_layer(config, outputs=config.ffn_expansion)
        self.fc2 = new_layer(config, inputs=config.ffn_expansion)

    def forward(self, x: Tensor, matrices: Source) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        for layer in (self.fc1, self.fc2):
            x = functional.gelu(x) if layer is self.fc2 else x
            x = project(x, [layer], matrices)
        return x


def new_mixer(config: ModelConfig) -> nn.Module:
    """The mixer that the config names, see `h2q.mixers`."""
    module, _, name = MIXERS[config.mixer].path.partition(":")
    return getattr(import_module(module), name)(config)


class Block(nn.Module):
    """A mixer and feed-forward, each behind a LayerNorm. One stream: both add to it. Halves: each adds to its own.
    Without feed-forward (`ffn` None) the mixer alone, and halves change places behind it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width) if config.feed_forward else None
        self._mixer_name = config.mixer
        self.add_module(config.mixer, new_mixer(config))
        self.ffn = FeedForward(config) if config.feed_forward else None

    @property
    def mixer(self) -> Any:
        """What mixes positions, by whose name its parameters go."""
        return getattr(self, self._mixer_name)

    @property
    def hidden(self) -> list[nn.Module]:
        """The layers of its feed-forward, none without."""
        return [] if self.ffn is None else [self.ffn.fc1, self.ffn.fc2]

    def mixer_branch(
        self,
        x: Tensor,
        matrices: Source,
        dtype: torch.dtype,
        state: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the mixer adds to the residual stream, (B, T, D) → (B, T, D) in `dtype`, and its state (see
        `h2q.mixers`)."""
        return self.mixer(add_norm(x, None, self.norm1, dtype)[1], matrices, state, keep)

    def ffn_branch(self, x: Tensor, matrices: Source, dtype: torch.dtype) -> Tensor:
        """What the feed-forward layers add to the residual stream, (B, T, D) → (B, T, D) in `dtype`."""
        assert self.ffn is not None and self.norm2 is not None
        return self.ffn(add_norm(x, None, self.norm2, dtype)[1], matrices)


def prepare_weights(
    blocks: list[Block], for_mixer: Tensor, for_ffn: Tensor, dtype: torch.dtype
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Weights and biases of all Hamilton layers at once, by the first of the layers that are asked for together.

    For a GPU: a few products and copies instead of some thirty small ones for each block. A CPU does better to make
    a weight just before it is used, while it is in its cache.
    """
    made: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def put(firsts: list, weights: Tensor, biases: Tensor) -> None:
        rows = (part.unflatten(0, (len(firsts), -1)).unbind() for part in (weights, biases))
        made.update(zip(firsts, zip(*rows), strict=True))

    if hidden := [layer for block in blocks for layer in block.hidden]:
        put(hidden, weight_of(hidden, for_ffn, dtype), bias_of(hidden, None, dtype))
    for parts in zip(*(block.mixer.parts for block in blocks), strict=True):
        inward, outward = [layer for part in parts for layer in part.inward], [part.outward for part in parts]
        weights = generate_weights(for_mixer, [*inward, *outward], dtype)
        rows, columns = (part.flatten(0, 1) for part in weights.split([len(inward), len(outward)]))
        rows, biases, columns = parts[0].arranged(rows, bias_of(inward, None, dtype), columns, len(parts))
        put([part.inward[0] for part in parts], rows, biases)
        put(outward, columns, bias_of(outward, None, dtype))
    return made


@torch.no_grad()
def stream_energy(first: Tensor, second: Tensor | None) -> Tensor:
    """Mean L2 norm over positions of the stream (B, T, D), or of its halves side by side: a scalar on its device."""
    norm = torch.linalg.vector_norm(first.detach(), dim=-1)
    if second is not None:
        norm = torch.hypot(norm, torch.linalg.vector_norm(second.detach(), dim=-1))
    return norm.mean()
