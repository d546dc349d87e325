"""Logits of the next byte, one byte at a time, without computing again what the cache already holds.

Shapes: `n` new positions, `t` positions in all, `D` width of a half or of the stream, `H` heads, `d = D / H`, `V`
alphabet, `N` layers that read the same input, `R` rank, `S` blocks, `F` factor size.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from h2q.attention import PHASE_EPS
from h2q.block import Block, weight_of
from h2q.model import ByteModel

NextLogits = Callable[[bytes], Tensor]
"""A context of 1 to `seq_len` bytes → logits (V,) of the byte after it."""

Products = Literal["auto", "factors", "weights"]


def decoder(model: ByteModel, products: Products = "auto") -> NextLogits:
    """What gives the logits after a context, quickest when each context is the last one and one byte more.

    `products`: `factors` applies Hamilton layers as their Kronecker terms, D F R + S D R multiply-adds for a byte;
    `weights` builds every weight once. `auto` is the form that is measured faster: on a CPU the factors, which stay in
    its caches, elsewhere the weights, fewer products to launch. The published head layout has no cache, because there
    all that a position sees depends on the length of the window: it is computed anew for every byte.

    The model must not change while the decoder is used. Dropout is off whatever the model's mode.
    """
    if model.config.head_layout == "published":
        return Recomputing(model)
    if products == "auto":
        products = "factors" if model.pos_emb.device.type == "cpu" else "weights"
    return Cached(model, products)


class Recomputing:
    """The whole context through the model for every byte: the naive twin of `Cached`."""

    def __init__(self, model: ByteModel) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, context: bytes) -> Tensor:
        model, training = self._model, self._model.training
        model.eval()
        try:
            return model(torch.tensor([list(context)], device=model.pos_emb.device))[0, -1]
        finally:
            model.train(training)


class Cached:
    """Keys and values of a context are kept: one more byte costs one position, any other context a fresh start."""

    @torch.inference_mode()
    def __init__(self, model: ByteModel, products: Products) -> None:
        self._model = model
        matrices = None if model.bank is None else model.bank.matrices(model.rank)
        if model.bank is None:
            products = "weights"
        ranks = model.attention_rank, model.ffn_rank
        shared = [None if matrices is None else _Shared(matrices[:rank], products) for rank in ranks]
        self._blocks = [_CachedBlock(model, block, *shared) for block in model.blocks if isinstance(block, Block)]
        self._seen = b""

    @torch.inference_mode()
    def __call__(self, context: bytes) -> Tensor:
        model, seen = self._model, len(self._seen)
        if len(context) != seen + 1 or not context.startswith(self._seen):
            seen = 0
        self._seen = bytes(context)
        x = torch.tensor(list(context[seen:]), device=model.pos_emb.device)
        stream = model.token_emb.weight[x] + model.pos_emb[0, seen : len(context)]
        if model.config.halves:
            first, second = stream.chunk(2, dim=-1)
            for block in self._blocks:
                first = first + block.attend(second, seen)
                second = second + block.feed(first)
            stream = torch.cat((first[-1], second[-1]))
        else:
            for block in self._blocks:
                stream = stream + block.attend(stream, seen)
                stream = stream + block.feed(stream)
            stream = stream[-1]
        return functional.linear(model.norm(stream), model.head.weight, model.head.bias)


class _CachedBlock:
    """The branches of one block, with room for the keys and values of `seq_len` positions."""

    def __init__(self, model: ByteModel, block: Block, for_attention: "_Shared | None", for_ffn: "_Shared | None"):
        attention, config = block.attention, model.config
        self._heads, self._size = config.heads, config.width // config.heads
        self._rotates = config.phase_rotation
        self._norm1, self._norm2 = block.norm1, block.norm2
        self._inward = _product([attention.q_proj, attention.k_proj, attention.v_proj], for_attention)
        self._outward = _product([attention.o_proj], for_attention)
        self._fc1, self._fc2 = _product([block.ffn.fc1], for_ffn), _product([block.ffn.fc2], for_ffn)
        self._cache = model.pos_emb.new_empty(2, config.heads, config.seq_len, self._size)

    def attend(self, x: Tensor, seen: int) -> Tensor:
        """Positions (n, D) behind the `seen` ones → what attention adds to them, (n, D)."""
        new, total = len(x), seen + len(x)
        qkv = self._inward(self._norm1(x)).view(3, new, self._heads, self._size).transpose(1, 2)
        self._cache[:, :, seen:total] = qkv[1:]
        keys, values = self._cache[:, None, :, :total]
        # Several positions come only after a fresh start, when they attend to nothing but themselves.
        y = functional.scaled_dot_product_attention(qkv[:1], keys, values, is_causal=new > 1)
        y = y[0].transpose(0, 1).reshape(new, -1)
        return self._outward(_rotate(y) if self._rotates else y)[0]

    def feed(self, x: Tensor) -> Tensor:
        """Positions (n, D) → what the feed-forward layers add to them, (n, D)."""
        return self._fc2(functional.gelu(self._fc1(self._norm2(x))[0]))[0]


def _rotate(y: Tensor) -> Tensor:
    """`h2q.attention.rotate_phase` on consecutive channels (n, D), with few operations."""
    y = y.view(len(y), -1, 4)
    scale = (y * y).sum(-1, keepdim=True).add_(PHASE_EPS).rsqrt_().mul_(y[..., :1])
    return (y * scale).view(len(y), -1)


class _Shared:
    """What all layers of one rank share: Hamilton matrices (R, S, S), and for the factor form H_r with rows (s, r)."""

    def __init__(self, matrices: Tensor, products: Products) -> None:
        rank, blocks, _ = matrices.shape
        self.matrices = matrices
        self.factored = products == "factors"
        self.mix = matrices.transpose(0, 1).reshape(blocks * rank, blocks)


def _product(layers: list, shared: _Shared | None) -> Callable[[Tensor], Tensor]:
    """N layers that read the same input, as one function (n, D) → (N, n, D)."""
    bias = torch.cat([layer.bias for layer in layers])
    if shared is not None and shared.factored:
        return _Factors(layers, shared, bias)
    weight = weight_of(layers, None if shared is None else shared.matrices, bias.dtype)
    return _Weights(weight, bias, len(layers))


class _Weights:
    def __init__(self, weight: Tensor, bias: Tensor, count: int) -> None:
        self._weight, self._bias, self._count = weight, bias, count

    def __call__(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self._weight, self._bias)
        return y.view(len(x), self._count, -1).transpose(0, 1)


class _Factors:
    """y = Σ_r (H_r ⊗ B_r) x without W: with x as S blocks X (S, F), it is Σ_r H_r X B_rᵀ. First all H_r X as one
    product, laid out (S, R F); then one product with the B_rᵀ below one another, (R F, F)."""

    def __init__(self, layers: list, shared: _Shared, bias: Tensor) -> None:
        rank, blocks, _ = shared.matrices.shape
        size = layers[0].factors.shape[-1]
        self._mix, self._bias = shared.mix, bias.view(len(layers), 1, -1)
        self._blocks, self._size = blocks, size
        terms = [layer.factors[:rank].transpose(1, 2).reshape(rank * size, size) for layer in layers]
        self._factors = torch.stack(terms)

    def __call__(self, x: Tensor) -> Tensor:
        new, count = len(x), len(self._factors)
        mixed = self._mix @ x.view(new, self._blocks, self._size)
        mixed = mixed.view(1, new * self._blocks, -1).expand(count, -1, -1)
        return torch.bmm(mixed, self._factors).view(count, new, -1).add_(self._bias)
