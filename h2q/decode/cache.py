"""Logits of the next byte, one byte at a time, without computing again what the cache already holds.

What one byte costs is the calls of torch more than their arithmetic: so views of the cache are made for all blocks at
once, and what can be computed in place is.

Shapes: `T` bytes of context, `n` positions, `t` of them up to now, `D` width of a half (or of the stream), `H` heads,
`d = D / H`, `V` alphabet, `N` layers that read the same input, `R` rank, `S` blocks, `F` factor size. *Formed* is the
shape in which products take one position: (S, F) with the factors, (D,) with the weights.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.block import Block
from h2q.decode.graph import Replayed
from h2q.decode.products import SharedMatrices, new_product
from h2q.kernels.attention import distance_bias
from h2q.kernels.rotation import PHASE_EPS
from h2q.mixers.attention import rotate_phase_ref
from h2q.model import ByteModel

NextLogits = Callable[[bytes], Tensor]
"""A context of 1 to `seq_len` bytes → logits (V,) of the byte after it."""

SMALL_WEIGHTS = 4 << 20
"""Bytes of generated weights up to which a CPU's own cache holds them and they are faster than the factors."""

KEPT_VIEWS = 512
"""Positions for which the views of the cache are kept: making them costs as much as a product."""

ROOT_HALF = 0.5**0.5


def decoder(model: ByteModel, products: Literal["auto", "factors", "weights"] = "auto") -> NextLogits:
    """What gives the logits after a context, quickest when each context is the last one and one byte more.

    `products`: `factors` applies Hamilton layers as their Kronecker terms, S D R + D F R multiply-adds for a byte;
    `weights` builds every weight once. `auto` is what was measured faster: the factors on a CPU whose cache the weights
    would overflow, a CUDA graph of the weights on a GPU, else the weights. The published head layout has no cache,
    because all that a position sees there depends on the length of the window: it is recomputed for every byte.

    The model must not change while the decoder is used. Dropout is off whatever the model's mode.
    """
    if model.config.head_layout == "published":
        return Recomputing(model)
    if products == "auto" and model.device.type == "cuda":
        return Replayed(model)
    if model.bank is None:
        products = "weights"
    elif products == "auto":
        weights = 6 * model.config.depth * model.config.width**2 * model.dtype.itemsize
        large = model.device.type == "cpu" and weights > SMALL_WEIGHTS
        products = "factors" if large else "weights"
    return Cached(model, factored=products == "factors")


class Recomputing:
    """The whole context through the model for every byte: the naive twin of `Cached`."""

    def __init__(self, model: ByteModel) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, context: bytes) -> Tensor:
        model, training = self._model, self._model.training
        model.eval()
        try:
            return model(torch.tensor([list(context)], device=model.device))[0, -1]
        finally:
            model.train(training)


class Cached:
    """Keys and values of a context are kept: one more byte costs one position, any other context a fresh start."""

    @torch.inference_mode()
    def __init__(self, model: ByteModel, *, factored: bool) -> None:
        config, weight = model.config, model.token_emb.weight
        self._model, self._seen = model, b""
        shared = [
            None if model.bank is None else SharedMatrices(model.bank.matrices(rank), factored)
            for rank in (model.mixer_rank, model.ffn_rank)
        ]
        formed = (config.blocks, config.factor) if factored else (config.width,)
        self._blocks = [
            _CachedBlock(model, block, formed, *shared) for block in model.blocks if isinstance(block, Block)
        ]
        halves = config.dim // config.width
        self._norm = _normaliser(model.norm, (config.dim,))
        self._tokens = model.token_emb.weight.view(config.vocab, halves, *formed)
        self._positions = None if model.pos_emb is None else model.pos_emb[0].view(config.seq_len, halves, *formed)
        self._token = self._tokens.unbind()
        self._position = None if self._positions is None else self._positions.unbind()
        self._stream = torch.empty_like(self._tokens[0])
        self._halves = self._stream[0], self._stream[-1]
        size = config.width // config.heads
        cache = weight.new_empty(config.depth, config.seq_len, 3, config.heads, size)
        self._cache = cache.flatten(-2)
        # A block writes queries, keys and values of one position at once, as its product gives them.
        self._slots = cache.view(config.depth, config.seq_len, *((3, *formed) if factored else (3 * config.width,)))
        self._queries = cache[:, :, 0].unsqueeze(3)
        self._keys = cache[:, :, 1].permute(0, 2, 3, 1)
        self._values = cache[:, :, 2].transpose(1, 2)
        self._views = lru_cache(KEPT_VIEWS)(self._views_at)

    @torch.inference_mode()
    def __call__(self, context: bytes) -> Tensor:
        grown = len(context) == len(self._seen) + 1 and context.startswith(self._seen)
        # Cleared meanwhile: an interrupted pass must leave nothing to build on.
        self._seen = b""
        hidden = self._step(len(context) - 1, context[-1]) if grown and len(context) > 1 else self._start(context)
        self._seen = bytes(context)
        model = self._model
        return torch.addmv(model.head.bias, model.head.weight, self._norm(hidden))

    def _step(self, position: int, byte: int) -> Tensor:
        """One more byte → the stream at it, (dim,)."""
        if self._position is None:
            self._stream.copy_(self._token[byte])
        else:
            torch.add(self._token[byte], self._position[position], out=self._stream)
        first, second = self._halves
        for block, views in zip(self._blocks, self._views(position)):
            block.attend(second, first, *views)
            block.feed(first, second)
        return self._stream.view(-1)

    def _views_at(self, position: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each block the slot of a position, its query, and the keys and values up to it."""
        slots, queries = self._slots[:, position].unbind(), self._queries[:, position].unbind()
        keys, values = self._keys[..., : position + 1].unbind(), self._values[:, :, : position + 1].unbind()
        return list(zip(slots, queries, keys, values))

    def _start(self, context: bytes) -> Tensor:
        """A context from its beginning → the stream at its last byte, (dim,)."""
        x = torch.tensor(list(context), device=self._cache.device)
        stream = self._tokens[x]
        if self._positions is not None:
            stream = stream + self._positions[: len(x)]
        stream = stream.view(*stream.shape[:2], -1).transpose(0, 1).contiguous()
        first, second = stream[0], stream[-1]
        for block, cache in zip(self._blocks, self._cache):
            first += block.attend_all(second, cache)
            second += block.feed_all(first)
        return stream[:, -1].reshape(-1)


class _CachedBlock:
    """The branches of one block: for one position (formed) behind those in the cache, and for the first n (n, D)."""

    def __init__(self, model: ByteModel, block: Block, formed: tuple[int, ...], for_attention, for_ffn) -> None:
        attention, config = block.mixer, model.config
        self._heads, self._rotates = config.heads, config.phase_rotation
        self._norms = block.norm1, block.norm2
        self._norm1, self._norm2 = _normaliser(block.norm1, formed), _normaliser(block.norm2, formed)
        scale = (config.width / config.heads) ** -0.5
        inward = [attention.q_proj, attention.k_proj, attention.v_proj]
        self._inward = new_product(inward, for_attention, gains=(scale, 1, 1))
        self._outward = new_product([attention.o_proj], for_attention)
        self._fc1 = new_product([block.ffn.fc1], for_ffn, gains=(ROOT_HALF,))
        self._fc2 = new_product([block.ffn.fc2], for_ffn, inner=ROOT_HALF)
        # What attention gives is written to the same place for every byte, so that no view of it is made twice.
        self._mixed = model.token_emb.weight.new_empty(config.heads, 1, config.width // config.heads)
        slopes = attention.slopes()
        self._bias = None if slopes is None else distance_bias(slopes, config.seq_len)
        """−slope × distance of every pair of positions, (H, T, T)."""
        self._rows = None if self._bias is None else self._bias[:, -1:]
        if self._rotates:
            self._row = self._mixed.view(-1, 1, 4)
            self._column, self._real = self._row.transpose(1, 2), self._row[:, :, :1]
        self._attended = self._mixed.view(formed)

    def attend(self, x: Tensor, stream: Tensor, slot: Tensor, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Adds to the stream. Writes q, k, v of x into its slot (3, formed); then query (H, 1, d), key (H, d, t), value
        (H, t, d) are views of the cache that hold them."""
        self._inward.one(self._norm1(x), slot)
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

    def feed(self, x: Tensor, stream: Tensor) -> None:
        """Adds to the stream."""
        self._fc2.add(_gelu(self._fc1.one(self._norm2(x))), stream)

    def attend_all(self, x: Tensor, cache: Tensor) -> Tensor:
        """Writes q, k, v into the first n slots of the cache (T, 3, D)."""
        qkv = cache[: len(x)].copy_(self._inward.all(self._norms[0](x)))
        query, key, value = qkv.unflatten(-1, (self._heads, -1)).permute(1, 2, 0, 3)[:, None]
        bias = None if self._bias is None else self._bias[:, : len(x), : len(x)]
        y = functional.scaled_dot_product_attention(query, key, value, bias, is_causal=bias is None, scale=1.0)
        y = y[0].transpose(0, 1).reshape(x.shape)
        return self._outward.all(rotate_phase_ref(y) if self._rotates else y)[:, 0]

    def feed_all(self, x: Tensor) -> Tensor:
        return self._fc2.all(_gelu(self._fc1.all(self._norms[1](x))[:, 0]))[:, 0]


def _gelu(u: Tensor) -> Tensor:
    """GELU(x) √2 for u = x √½: with Φ(x) = (1 + erf u) / 2, x Φ(x) = √½ (u + u erf u). Quicker than torch's own."""
    return torch.addcmul(u, u, torch.erf(u))


def _normaliser(norm: nn.Module, formed: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    if not isinstance(norm, nn.LayerNorm):
        return norm  # The identity of a model without a final norm.
    weight, bias, eps = norm.weight.view(formed), norm.bias.view(formed), norm.eps
    return lambda x: torch.layer_norm(x, formed, weight, bias, eps)
