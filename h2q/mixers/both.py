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
        attended = self._attended(x, matrices)
        remembered, state = self.state(x, matrices, state, keep)
        return attended + remembered, state

    def _attended(self, x: Tensor, matrices: Source) -> Tensor:
        """Whole chunks all at once, one below the other, and what is left behind them."""
        whole = x.shape[1] - x.shape[1] % self.chunk
        parts = []
        if whole:
            chunks = x[:, :whole].unflatten(1, (-1, self.chunk)).flatten(0, 1)
            parts.append(self.attention(chunks, matrices)[0].unflatten(0, (len(x), -1)).flatten(1, 2))
        if whole < x.shape[1]:
            parts.append(self.attention(x[:, whole:], matrices)[0])
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
