"""Logits of the next byte for many streams in step, all state on the device at fixed places.

Every tensor keeps its address and its shape and no value is looked at by the host, so that one step can be recorded
once as a CUDA graph and replayed for every byte. The same code runs eagerly anywhere.

Shapes: `B` streams, `T` positions, `D` width of a half (or of the stream), `G` halves (1 without), `H` heads,
`d = D / H`, `V` alphabet, `N` blocks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.block import Block
from h2q.decode.fused import Kernels, kernels_for
from h2q.errors import require
from h2q.kernels.attention import distance_bias
from h2q.kernels.rotation import PHASE_EPS
from h2q.layers.source import weight_of
from h2q.model import ByteModel


class StaticDecoder:
    """Keys and values of B contexts of equal length. Weights are built once: the model must not change meanwhile.

    `dtype` is that of matrix products and cache (None: the parameters'); the residual stream and the logits stay in
    the parameters' dtype. `fused` false leaves out the kernels written for this.
    """

    @torch.inference_mode()
    def __init__(self, model: ByteModel, streams: int, dtype: torch.dtype | None = None, *, fused: bool = True) -> None:
        config, weight = model.config, model.token_emb.weight
        require(config.head_layout == "split", "the published head layout keeps no keys and values: recompute instead")
        require(model.strides is None, "no graph is written for model.strides auto: recompute instead")
        self.config, self.device, self.dtype = config, weight.device, dtype or weight.dtype
        self.window = torch.zeros(streams, config.seq_len + 1, dtype=torch.int64, device=self.device)
        """Bytes of the contexts, (B, T + 1): the last column is for what comes behind a full context."""
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        """Column of the newest byte, the same for all streams."""
        self.logits = weight.new_zeros(streams, config.vocab)
        """Logits after the newest byte, (B, V)."""
        # The kernels know learned positions only, and no tables.
        known = model.pos_emb is not None and model.tables is None
        self.kernels = kernels_for(self.device, self.dtype) if fused and known else None
        self._tables = model.tables
        ranks = model.mixer_rank, model.ffn_rank
        matrices = [None if model.bank is None else model.bank.matrices(rank) for rank in ranks]
        self._blocks = [
            _StaticBlock(block, model, streams, self.dtype, self.kernels, *matrices)
            for block in model.blocks
            if isinstance(block, Block)
        ]
        halves = config.dim // config.width
        self._tokens = model.token_emb.weight.detach().unflatten(-1, (halves, -1)).transpose(0, 1).contiguous()
        positions = self._tokens.new_zeros(config.seq_len, config.dim) if model.pos_emb is None else model.pos_emb[0]
        self._positions = positions.detach().unflatten(-1, (halves, -1)).transpose(0, 1).contiguous()
        self._norm = model.norm
        self._head = _Affine(model.head.weight.detach().to(self.dtype), model.head.bias.detach().to(self.dtype))
        self._columns = torch.arange(config.seq_len, device=self.device)
        if model.tables is not None:
            self._back = torch.arange(model.tables.context, 0, -1, device=self.device)

    @torch.inference_mode()
    def step(self) -> None:
        """One more byte, which stands in column `position`: its keys and values are kept, the logits those after it."""
        if self.kernels:
            seen, stream = None, self.kernels.embed(self.window, self.position, self._tokens, self._positions)
        else:
            at = self.position.view(1)
            seen = torch.where(self._columns <= at, 0.0, float("-inf")).to(self.dtype)[None]
            # A symbol beyond the alphabet stands where nothing could be drawn.
            symbols = self.window.index_select(1, at).view(-1).clamp_(max=self.config.vocab - 1)
            stream = self._tokens.index_select(1, symbols).add_(self._positions.index_select(1, at))
            if self._tables is not None:
                places = at - self._back
                recent = (self.window.index_select(1, places.clamp(min=0)) + 1) * (places >= 0)
                added, _ = self._tables(symbols[:, None], recent)
                stream += added[:, 0]
        first, second = stream[0], stream[-1]
        for block in self._blocks:
            block.attend(second, first, self.position, seen)
            if block.feeds:
                block.feed(first, second)
            else:
                first, second = second, first
        self._finish(stream)

    @torch.inference_mode()
    def fill(self, length: int) -> None:
        """The contexts that stand in the first `length` columns, from their beginning."""
        symbols = self.window[:, :length].clamp(max=self.config.vocab - 1)
        stream = self._tokens[:, symbols].add_(self._positions[:, None, :length])
        if self._tables is not None:
            added, _ = self._tables(symbols, symbols.new_zeros(len(symbols), self._tables.context))
            stream += added
        first, second = stream[0], stream[-1]
        for block in self._blocks:
            block.attend_all(second, first)
            if block.feeds:
                block.feed_all(first, second)
            else:
                first, second = second, first
        self.position.fill_(length - 1)
        self._finish(stream[:, :, -1])

    def _finish(self, stream: Tensor) -> None:
        """(G, B, D) → the logits."""
        hidden = stream.transpose(0, 1).reshape(len(self.logits), -1).contiguous()
        if self.kernels and len(self.logits) <= self.kernels.few:
            norm = self._norm if isinstance(self._norm, nn.LayerNorm) else None
            self.kernels.affine(hidden, norm, self._head.weight, self._head.bias, self.logits)
        else:
            self.logits.copy_(self._head(self._norm(hidden).to(self.dtype)))


class _Affine:
    """y = x Wᵀ + b, in one dtype."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class _StaticBlock:
    """The branches of one block, each adding to a half of the stream: for the newest byte (B, D), for all (B, n, D)."""

    def __init__(
        self,
        block: Block,
        model: ByteModel,
        streams: int,
        dtype: torch.dtype,
        kernels: Kernels | None,
        for_attention: Tensor | None,
        for_ffn: Tensor | None,
    ) -> None:
        config, attention = model.config, block.mixer
        self._heads, self._size, self._rotates = config.heads, config.width // config.heads, config.phase_rotation
        self._dtype, self._kernels = dtype, kernels
        self._few = kernels is not None and streams <= kernels.few
        self._norm1 = block.norm1

        def affine(layers: list, matrices: Tensor | None) -> _Affine:
            bias = torch.cat([layer.bias.detach() for layer in layers]).to(dtype)
            return _Affine(weight_of(layers, matrices, dtype).detach(), bias)

        self._inward = affine([attention.q_proj, attention.k_proj, attention.v_proj], for_attention)
        self._outward = affine([attention.o_proj], for_attention)
        self.feeds = block.ffn is not None
        if block.ffn is not None and block.norm2 is not None:
            self._norm2 = block.norm2
            self._fc1, self._fc2 = affine([block.ffn.fc1], for_ffn), affine([block.ffn.fc2], for_ffn)
        self._slopes = attention.slopes()
        self._places = torch.arange(config.seq_len, device=model.device)
        shape = (2, streams, self._heads, config.seq_len, self._size)
        self._cache = torch.zeros(shape, dtype=dtype, device=model.device)

    def attend(self, x: Tensor, stream: Tensor, position: Tensor, seen: Tensor | None) -> None:
        """`seen` (1, T) is 0 up to the position and −∞ behind it."""
        if self._kernels is None:
            qkv = self._inward(self._norm1(x).to(self._dtype))
            y = self._mix(qkv, position, seen)
        else:
            if self._few:
                qkv = x.new_empty(len(x), len(self._inward.bias))
                self._kernels.affine(x, self._norm1, self._inward.weight, self._inward.bias, qkv)
            else:
                qkv = self._inward(self._norm1(x).to(self._dtype))
            y = x.new_empty(x.shape, dtype=qkv.dtype)
            self._kernels.attend(qkv, self._cache, position, y, rotate=self._rotates)
        if self._few and self._kernels:
            self._kernels.affine(y, None, self._outward.weight, self._outward.bias, stream, add=True)
        else:
            stream += self._outward(y)

    def feed(self, x: Tensor, stream: Tensor) -> None:
        if self._few and self._kernels:
            hidden = x.new_empty(len(x), len(self._fc1.bias))
            self._kernels.affine(x, self._norm2, self._fc1.weight, self._fc1.bias, hidden, gelu=True)
            self._kernels.affine(hidden, None, self._fc2.weight, self._fc2.bias, stream, add=True)
        else:
            self.feed_all(x, stream)

    def _mix(self, qkv: Tensor, position: Tensor, seen: Tensor | None) -> Tensor:
        """Attention of the newest byte over the whole cache, (B, 3 D) → (B, D)."""
        query, key, value = qkv.view(len(qkv), 3, self._heads, 1, self._size).unbind(1)
        keys, values = self._cache
        keys.index_copy_(2, position.view(1), key)
        values.index_copy_(2, position.view(1), value)
        if self._slopes is not None and seen is not None:
            distance = (position - self._places).clamp(min=0)
            seen = (seen - self._slopes[:, None, None] * distance).to(self._dtype)
        y = functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
        return self._rotate(y).reshape(len(qkv), -1)

    def attend_all(self, x: Tensor, stream: Tensor) -> None:
        qkv = self._inward(self._norm1(x).to(self._dtype))
        query, key, value = qkv.unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        length = x.shape[1]
        self._cache[0, :, :, :length], self._cache[1, :, :, :length] = key, value
        bias = None if self._slopes is None else distance_bias(self._slopes, length).to(self._dtype)
        y = functional.scaled_dot_product_attention(query, key, value, bias, is_causal=bias is None)
        stream += self._outward(self._rotate(y).transpose(1, 2).flatten(-2))

    def feed_all(self, x: Tensor, stream: Tensor) -> None:
        stream += self._fc2(functional.gelu(self._fc1(self._norm2(x).to(self._dtype))))

    def _rotate(self, y: Tensor) -> Tensor:
        """`h2q.mixers.attention.rotate_phase` on consecutive channels (…, d); squares in float32 at least."""
        if not self._rotates:
            return y
        quaternion = y.unflatten(-1, (-1, 4)).to(torch.promote_types(y.dtype, torch.float32))
        inverse = quaternion.square().sum(-1, keepdim=True).add_(PHASE_EPS).rsqrt_()
        return (quaternion * inverse.mul_(quaternion[..., :1])).flatten(-2).to(y.dtype)
