"""The branches of a block at one position, with what they keep of the positions before.

What one byte costs is the calls of torch more than their arithmetic: so views of the cache are made for all blocks at
once, and what can be computed in place is.

Shapes: `T` bytes of context, `n` positions, `t` of them up to now, `D` width of a half (or of the stream), `H` heads,
`d = D / H`, `m = D / 4`. *Formed* is the shape in which products take one position: (S, F) with the factors, (D,) with
the weights.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.decode.products import SharedMatrices, new_product
from h2q.kernels.attention import distance_bias
from h2q.kernels.rotation import PHASE_EPS
from h2q.kernels.scan import quaternion_product
from h2q.mixers.attention import rotate_phase_ref
from h2q.mixers.state import rotation
from h2q.tables import NgramTables

KEPT_VIEWS = 512
"""Positions for which the views of the cache are kept: making them costs as much as a product."""

ROOT_HALF = 0.5**0.5


class KeysAndValues:
    """Queries, keys and values of up to T positions in every block."""

    def __init__(self, config: ModelConfig, formed: tuple[int, ...], like: Tensor) -> None:
        size = config.width // config.heads
        cache = like.new_zeros(config.depth, config.seq_len, 3, config.heads, size)
        self.all = cache.flatten(-2)
        """(depth, T, 3, D)."""
        # A block writes queries, keys and values of one position at once, as its product gives them.
        slot = (3, *formed) if len(formed) > 1 else (3 * config.width,)
        self._slots = cache.view(config.depth, config.seq_len, *slot)
        self._queries = cache[:, :, 0].unsqueeze(3)
        self._keys = cache[:, :, 1].permute(0, 2, 3, 1)
        self._values = cache[:, :, 2].transpose(1, 2)
        self.at = lru_cache(KEPT_VIEWS)(self._at)

    def _at(self, position: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each block the slot of a position, its query, and the keys and values up to it."""
        slots, queries = self._slots[:, position].unbind(), self._queries[:, position].unbind()
        keys, values = self._keys[..., : position + 1].unbind(), self._values[:, :, : position + 1].unbind()
        return list(zip(slots, queries, keys, values))


class CachedAttention:
    """Attention of one position (formed) behind those in the cache, and of the first n (n, D)."""

    def __init__(self, attention: Any, config: ModelConfig, formed: tuple[int, ...], shared: SharedMatrices | None):
        self._heads, self._rotates = config.heads, config.phase_rotation
        scale = (config.width / config.heads) ** -0.5
        self._inward = new_product(attention.inward, shared, gains=(scale, 1, 1))
        self._outward = new_product([attention.outward], shared)
        # What attention gives is written to the same place for every byte, so that no view of it is made twice.
        self._mixed = attention.outward.bias.new_empty(config.heads, 1, config.width // config.heads)
        slopes = attention.slopes()
        self._bias = None if slopes is None else distance_bias(slopes, config.seq_len)
        """−slope × distance of every pair of positions, (H, T, T)."""
        self._rows = None if self._bias is None else self._bias[:, -1:]
        if self._rotates:
            self._row = self._mixed.view(-1, 1, 4)
            self._column, self._real = self._row.transpose(1, 2), self._row[:, :, :1]
        self._attended = self._mixed.view(formed)

    def one(self, x: Tensor, stream: Tensor, slot: Tensor, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Adds to the stream. Writes q, k, v of x into its slot (3, formed); then query (H, 1, d), key (H, d, t), value
        (H, t, d) are views of the cache that hold them."""
        self._inward.one(x, slot)
        if self._rows is None:
            scores = torch.bmm(query, key)
        else:
            scores = torch.baddbmm(self._rows[..., -key.shape[-1] :], query, key)
        torch.bmm(scores.softmax(-1), value, out=self._mixed)
        if self._rotates:
            # `h2q.mixers.attention.rotate_phase` on consecutive channels, in few calls: |y|² is a row times a column.
            inverse = torch.bmm(self._row, self._column).add_(PHASE_EPS).rsqrt_()
            self._row.mul_(inverse.mul_(self._real))
        self._outward.add(self._attended, stream)

    def all(self, x: Tensor, cache: Tensor) -> Tensor:
        """Writes q, k, v into the first n slots of the cache (T, 3, D)."""
        qkv = cache[: len(x)].copy_(self._inward.all(x))
        query, key, value = qkv.unflatten(-1, (self._heads, -1)).permute(1, 2, 0, 3)[:, None]
        bias = None if self._bias is None else self._bias[:, : len(x), : len(x)]
        y = functional.scaled_dot_product_attention(query, key, value, bias, is_causal=bias is None, scale=1.0)
        y = y[0].transpose(0, 1).reshape(x.shape)
        return self._outward.all(rotate_phase_ref(y) if self._rotates else y)[:, 0]


class SteppedState:
    """The gated state, a byte at a time; `state` (D,) is changed in place."""

    def __init__(self, part: Any, formed: tuple[int, ...], shared: SharedMatrices | None, state: Tensor) -> None:
        self._inward = new_product(part.inward, shared)
        self._outward = new_product([part.outward], shared)
        self._rotation = part.rotation
        self._p = torch.empty(3, *formed, dtype=state.dtype, device=state.device)
        self._into = self._p if len(formed) > 1 else self._p.view(-1)
        self._v, self._c, self._z = self._p.unbind()
        self._state, self._y = state.view(formed), torch.empty_like(self._v)
        self._quaternions = [part.view(-1).view(4, 1, -1) for part in (self._v, self._c, self._state)] * bool(
            self._rotation != "none"
        )

    def one(self, x: Tensor, stream: Tensor) -> None:
        """Adds to the stream, for one position, formed."""
        self._inward.one(x, self._into)
        if self._rotation == "none":
            torch.lerp(self._v, self._state, self._c.sigmoid_(), out=self._state)
        else:
            v, c, state = self._quaternions
            a = c[:1].sigmoid()
            state.copy_(torch.lerp(v, quaternion_product(rotation(c[1:], self._rotation), state), a))
        torch.mul(self._state, functional.silu(self._z, inplace=True), out=self._y)
        self._outward.add(self._y, stream)


class SteppedTables:
    """The tables of n-grams, a byte at a time: what they add to both halves of the stream (halves, formed)."""

    def __init__(self, tables: NgramTables, stream: Tensor) -> None:
        self._tables, self.context, flat = tables, tables.context, stream.view(len(stream), -1)
        self._parts: list[list[tuple[Tensor, Tensor]]] = []
        """For each table where in the stream its rows go, and the rows, piece by piece where they begin again."""
        first = 0
        for weight in tables.weights:
            pieces, columns = [], weight.detach()
            while columns.shape[1]:
                count = min(columns.shape[1], tables.width - first)
                pieces.append((flat[:, first : first + count], columns[:, :count]))
                columns, first = columns[:, count:], (first + count) % tables.width
            self._parts.append(pieces)

    def add(self, symbols: Sequence[int]) -> None:
        """Behind the last C + 1 symbols, newest last."""
        for row, pieces in zip(self._tables.rows(symbols), self._parts):
            for part, rows in pieces:
                part.add_(rows.select(0, row))


class CachedFeedForward:
    """Norm and feed-forward layers of a block, for one position (formed), and for n (n, D)."""

    def __init__(self, block: Any, formed: tuple[int, ...], shared: SharedMatrices | None) -> None:
        self._norm, self._formed = block.norm2, normaliser(block.norm2, formed)
        self._fc1 = new_product([block.ffn.fc1], shared, gains=(ROOT_HALF,))
        self._fc2 = new_product([block.ffn.fc2], shared, inner=ROOT_HALF)

    def one(self, x: Tensor, stream: Tensor) -> None:
        """Adds to the stream."""
        self._fc2.add(_gelu(self._fc1.one(self._formed(x))), stream)

    def all(self, x: Tensor) -> Tensor:
        return self._fc2.all(_gelu(self._fc1.all(self._norm(x))[:, 0]))[:, 0]


def _gelu(u: Tensor) -> Tensor:
    """GELU(x) √2 for u = x √½: with Φ(x) = (1 + erf u) / 2, x Φ(x) = √½ (u + u erf u). Quicker than torch's own."""
    return torch.addcmul(u, u, torch.erf(u))


def normaliser(norm: nn.Module, formed: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """The norm for one position, formed."""
    if not isinstance(norm, nn.LayerNorm):
        return norm  # The identity of a model without a final norm.
    weight, bias, eps = norm.weight.view(formed), norm.bias.view(formed), norm.eps
    return lambda x: torch.layer_norm(x, formed, weight, bias, eps)
