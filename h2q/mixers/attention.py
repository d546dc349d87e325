"""The mixer `attention`: causal attention over quaternion channels, with the phase rotation of its output.

Shapes: `B` lanes, `T` bytes of context, `D` width, `H` heads, `d = D / H` channels of a head, `n` positions.
Four consecutive channels are one quaternion. *Planar* order of channels puts the same component of all quaternions
side by side, so that arithmetic on components runs over long contiguous rows.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.kernels.attention import SHORT_CONTEXT, distance_bias, short_attention
from h2q.kernels.linear import linear
from h2q.kernels.packed import can_pack, rotate_packed
from h2q.kernels.rotation import PHASE_EPS, rotate_phase
from h2q.layers.source import Source, bias_of, by_factors, new_layer, project, weight_of


class Attention(nn.Module):
    """Four projections around causal attention. It carries nothing from chunk to chunk.

    With relative positions the score of a pair falls with their distance, by a slope that each head learns; heads begin
    with slopes 2^(−8h/H), as in Press et al., "Train short, test long" (2022).
    """

    state_size = 0

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.published_layout = config.head_layout == "published"
        self.phase_rotation = config.phase_rotation
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (new_layer(config) for _ in range(4))
        self.log_slopes = nn.Parameter(torch.zeros(config.heads)) if config.order == "relative" else None

    @property
    def parts(self) -> list[nn.Module]:
        return [self]

    @property
    def inward(self) -> list[nn.Module]:
        return [self.q_proj, self.k_proj, self.v_proj]

    @property
    def outward(self) -> nn.Module:
        return self.o_proj

    @torch.no_grad()
    def reset(self) -> None:
        if self.log_slopes is not None:
            self.log_slopes.copy_(-8 * math.log(2) / self.heads * torch.arange(1, self.heads + 1))

    def slopes(self) -> Tensor | None:
        """By how much each head's scores fall with every byte of distance, (H,); None without relative positions."""
        return None if self.log_slopes is None else self.log_slopes.exp()

    def arranged(self, inward: Tensor, bias: Tensor, outward: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        if not self._planar(inward):
            return inward, bias, outward
        # Queries and keys come along: their dot product does not depend on the order of channels.
        heads = 3 * self.heads * count
        return planar_rows(inward, heads), planar_rows(bias, heads), planar_columns(outward)

    def forward(
        self, x: Tensor, matrices: Source, state: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, T, D) → (B, T, D), None."""
        if by_factors(self.inward):
            y = self._attend(project(x, self.inward, matrices))
            return project(y, [self.outward], matrices), None
        inward, outward = (weight_of(layers, matrices, x.dtype) for layers in (self.inward, [self.outward]))
        bias = bias_of(self.inward, matrices, x.dtype)
        if not isinstance(matrices, dict):
            inward, bias, outward = self.arranged(inward, bias, outward, 1)
        y = self._attend(linear(x, inward, bias))
        return linear(y, outward, bias_of([self.outward], matrices, x.dtype)), None

    def _attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values (B, T, 3 D) → what heads make of them, rotated, (B, T, D)."""
        if self.published_layout:
            y = attend_published(qkv, self.heads)
        elif self._planar(qkv):
            y = planar_heads(attend(qkv, self.heads, self.slopes()))
            return rotate_phase(y).reshape(*qkv.shape[:2], -1)
        else:
            y = attend(qkv, self.heads, self.slopes()).transpose(1, 2).flatten(-2)
            if self.phase_rotation and can_pack(y.device, y.dtype):
                return rotate_packed(y)
        return rotate_phase_ref(y) if self.phase_rotation else y

    def _planar(self, like: Tensor) -> bool:
        """Whether channels go in planar order here."""
        usual = self.phase_rotation and not self.published_layout and not can_pack(like.device, like.dtype)
        return usual and not by_factors(self.inward)


def attend(qkv: Tensor, heads: int, slopes: Tensor | None = None) -> Tensor:
    """Causal attention of (B, T, 3D) queries, keys and values → (B, H, T, d).

    The score of a head is Re(q · conj(k)) summed over its quaternions: the plain dot product of its channels; less
    slopes (H,) times the distance where they are given.
    """
    qkv = qkv.unflatten(-1, (3, heads, -1))
    if qkv.device.type == "cpu" and qkv.shape[1] <= SHORT_CONTEXT:
        return short_attention(qkv, slopes)
    # Taken apart where they lie, so that their gradients are put together there, in one copy.
    query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
    if slopes is None:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    bias = distance_bias(slopes, qkv.shape[1]).to(qkv.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def attend_published(qkv: Tensor, heads: int) -> Tensor:
    """The head layout of the published H2Q: (B, T, D) reinterpreted, not transposed, as (B, H, T, d) → (B, T, D).

    A position sees only part of what lies before it, and which part depends on T. For imported checkpoints only.
    """
    batch, length, _ = qkv.shape
    query, key, value = (part.reshape(batch, heads, length, -1) for part in qkv.chunk(3, dim=-1))
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.reshape(batch, length, -1)


def attend_ref(qkv: Tensor, heads: int, slopes: Tensor | None = None) -> Tensor:
    """`attend` head by head, with the score written as Re(q · conj(k)); (B, T, 3D) → (B, T, D)."""
    length = qkv.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=qkv.device).tril()
    position, outputs = torch.arange(length, device=qkv.device), []
    parts = zip(*(part.chunk(heads, dim=-1) for part in qkv.chunk(3, dim=-1)))
    for head, (query, key, value) in enumerate(parts):
        q, k = (x.unflatten(-1, (-1, 4)) for x in (query[:, :, None], key[:, None]))
        conjugate = k * k.new_tensor([1, -1, -1, -1])
        real = q[..., 0] * conjugate[..., 0] - (q[..., 1:] * conjugate[..., 1:]).sum(-1)
        scores = real.sum(-1) / query.shape[-1] ** 0.5
        if slopes is not None:
            scores = scores - slopes[head] * (position[:, None] - position)
        outputs.append(scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value)
    return torch.cat(outputs, dim=-1)


def planar_rows(matrix: Tensor, heads: int) -> Tensor:
    """Rows (D, …) of a projection put into planar order within each head."""
    return matrix.unflatten(0, (heads, -1, 4)).transpose(1, 2).flatten(0, 2)


def planar_columns(weight: Tensor) -> Tensor:
    """Columns of an output projection (D, D) put into planar order, to read what `planar_heads` returns."""
    return weight.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1)


def planar_heads(mixed: Tensor) -> Tensor:
    """(B, H, T, d), planar in each head → (n, 4, D/4), planar over all heads, with n = B T."""
    batch, heads, length, size = mixed.shape
    return mixed.view(batch, heads, length, 4, size // 4).permute(0, 2, 3, 1, 4).reshape(batch * length, 4, -1)


def rotate_phase_ref(y: Tensor) -> Tensor:
    """`rotate_phase` on consecutive channels, (..., D) → (..., D), as published."""
    quaternion = y.unflatten(-1, (-1, 4))
    norm = (quaternion.square().sum(-1, keepdim=True) + PHASE_EPS).sqrt()
    return (quaternion / norm * quaternion[..., :1]).flatten(-2)
