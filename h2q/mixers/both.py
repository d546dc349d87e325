"""The mixer `both`: attention within the chunk, and beside it the gated state, which knows what came before.

Shapes: `B` lanes, `T` bytes, `D` width.
"""

import torch
from torch import Tensor, nn

from h2q.config import ModelConfig
from h2q.layers.source import Source
from h2q.mixers.attention import Attention
from h2q.mixers.state import GatedState


class Both(nn.Module):
    """Attention and state on the same input; their outputs are added. Attention starts over every `seq_len` bytes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention, self.state = Attention(config), GatedState(config)
        self.state_size, self.chunk = self.state.state_size, config.seq_len

    @property
    def parts(self) -> list[nn.Module]:
        return [self.attention, self.state]

    def reset(self) -> None:
        self.attention.reset()
        self.state.reset()

    def forward(self, x: Tensor, matrices: Source, state: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, T, D), state (B, D) → (B, T, D), the state behind the last byte."""
        chunks = [self.attention(chunk, matrices)[0] for chunk in x.split(self.chunk, dim=1)]
        remembered, state = self.state(x, matrices, state, keep)
        return torch.cat(chunks, dim=1) + remembered, state
