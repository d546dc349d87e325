"""Logits of the next byte, one byte at a time, without computing again what the cache already holds.

Shapes: `T` bytes of context, `n` positions, `D` width of a half (or of the stream), `V` alphabet, `R` rank, `S` blocks,
`F` factor size. *Formed*: see `h2q.decode.branches`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from h2q.alphabet import BYTES
from h2q.block import Block
from h2q.decode.branches import CachedAttention, CachedFeedForward, KeysAndValues, SteppedTables, normaliser
from h2q.decode.graph import Replayed
from h2q.decode.products import SharedMatrices
from h2q.errors import require
from h2q.model import ByteModel

NextLogits = Callable[[Any], Tensor]
"""A context of 1 to `seq_len` bytes, or symbols → logits (V,) of the byte after it."""

SMALL_WEIGHTS = 4 << 20
"""Bytes of generated weights up to which a CPU's own cache holds them and they are faster than the factors."""


def decoder(model: ByteModel, products: Literal["auto", "factors", "weights"] = "auto") -> NextLogits:
    """What gives the logits after a context, quickest when each context is the last one and one byte more.

    `products`: `factors` applies Hamilton layers as their Kronecker terms, S D R + D F R multiply-adds for a byte;
    `weights` builds every weight once. `auto` is what was measured faster: the factors on a CPU whose cache the weights
    would overflow, a CUDA graph of the weights on a GPU, else the weights. Only Hamilton layers with one factor for all
    blocks are ever applied so: others build their weights. The published head layout has no cache,
    because all that a position sees there depends on the length of the window, and none is written for strides or
    markers: there it is recomputed for every byte.

    The model must not change while the decoder is used. Dropout is off whatever the model's mode.
    Raises: UserError for a model that carries a state: what it makes of a byte depends on more than a window.
    """
    require(not model.config.carries, f"model.mixer {model.config.mixer} carries a state: read bytes by a Session")
    if model.config.head_layout == "published" or model.strides is not None or model.config.vocab > BYTES:
        return Recomputing(model)
    if products == "auto" and model.device.type == "cuda":
        return Replayed(model)
    return Cached(model, factored=factored(model, products))


def factored(model: ByteModel, products: Literal["auto", "factors", "weights"]) -> bool:
    """Whether Hamilton layers are applied as their factors, see `decoder`."""
    if model.bank is None or model.config.factors == "per-block":
        return False
    if products != "auto":
        return products == "factors"
    first = model.blocks[0]
    assert isinstance(first, Block)
    layers = sum(3 + 1 for _ in first.mixer.parts) + len(first.hidden)
    weights = layers * model.config.depth * model.config.width**2 * model.dtype.itemsize
    return model.device.type == "cpu" and weights > SMALL_WEIGHTS


class Recomputing:
    """The whole context through the model for every byte: the naive twin of `Cached`."""

    def __init__(self, model: ByteModel) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, context: Sequence[int]) -> Tensor:
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
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        self._norms = [block.norm1 for block in blocks]
        self._formed = [normaliser(block.norm1, formed) for block in blocks]
        self._attention = [CachedAttention(block.mixer, config, formed, shared[0]) for block in blocks]
        self._ffn = [None if block.ffn is None else CachedFeedForward(block, formed, shared[1]) for block in blocks]
        halves = config.dim // config.width
        self._norm = normaliser(model.norm, (config.dim,))
        self._tokens = weight.view(config.vocab, halves, *formed)
        self._positions = None if model.pos_emb is None else model.pos_emb[0].view(config.seq_len, halves, *formed)
        self._token = self._tokens.unbind()
        self._position = None if self._positions is None else self._positions.unbind()
        self._stream = torch.empty_like(self._tokens[0])
        self._halves = self._stream[0], self._stream[-1]
        self._tables = None if model.tables is None else SteppedTables(model.tables, self._stream)
        self._cache = KeysAndValues(config, formed, weight)

    @torch.inference_mode()
    def __call__(self, context: bytes) -> Tensor:
        grown = len(context) == len(self._seen) + 1 and context.startswith(self._seen)
        # Cleared meanwhile: an interrupted pass must leave nothing to build on.
        self._seen = b""
        hidden = self._step(context) if grown and len(context) > 1 else self._start(context)
        self._seen = bytes(context)
        model = self._model
        return torch.addmv(model.head.bias, model.head.weight, self._norm(hidden))

    def _step(self, context: bytes) -> Tensor:
        """One more byte → the stream at it, (dim,)."""
        position, byte = len(context) - 1, context[-1]
        if self._position is None:
            self._stream.copy_(self._token[byte])
        else:
            torch.add(self._token[byte], self._position[position], out=self._stream)
        if self._tables is not None:
            count = self._tables.context
            self._tables.add([0] * count + [byte + 1 for byte in context[-count - 1 :]])
        first, second = self._halves
        for norm, attention, ffn, views in zip(self._formed, self._attention, self._ffn, self._cache.at(position)):
            attention.one(norm(second), first, *views)
            if ffn is None:
                first, second = second, first
            else:
                ffn.one(first, second)
        return self._stream.view(-1)

    def _start(self, context: bytes) -> Tensor:
        """A context from its beginning → the stream at its last byte, (dim,)."""
        x = torch.tensor(list(context), device=self._stream.device)
        stream = self._tokens[x]
        if self._model.tables is not None:
            added, _ = self._model.tables(x[None], x.new_zeros(1, self._model.tables.context))
            stream += added[0].view(len(x), 1, *stream.shape[2:])
        if self._positions is not None:
            stream = stream + self._positions[: len(x)]
        stream = stream.view(*stream.shape[:2], -1).transpose(0, 1).contiguous()
        first, second = stream[0], stream[-1]
        for norm, attention, ffn, cache in zip(self._norms, self._attention, self._ffn, self._cache.all):
            first += attention.all(norm(second), cache)
            if ffn is None:
                first, second = second, first
            else:
                second += ffn.all(first)
        return stream[:, -1].reshape(-1)
