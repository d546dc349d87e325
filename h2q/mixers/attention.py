"""Causal attention over quaternion channels, and the order of channels for the phase rotation of its output.

Shapes: `B` lanes, `T` bytes of context, `D` width, `H` heads, `d = D / H` channels of a head, `n` positions.
Four consecutive channels are one quaternion. *Planar* order of channels puts the same component of all quaternions
side by side, so that arithmetic on components runs over long contiguous rows.
"""

import torch
from torch import Tensor
from torch.nn import functional

from h2q.kernels.attention import SHORT_CONTEXT, short_attention
from h2q.kernels.rotation import PHASE_EPS


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Causal attention of (B, T, 3D) queries, keys and values → (B, H, T, d).

    The score of a head is Re(q · conj(k)) summed over its quaternions: the plain dot product of its channels.
    """
    qkv = qkv.unflatten(-1, (3, heads, -1))
    if qkv.device.type == "cpu" and qkv.shape[1] <= SHORT_CONTEXT:
        return short_attention(qkv)
    # Taken apart where they lie, so that their gradients are put together there, in one copy.
    query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def attend_published(qkv: Tensor, heads: int) -> Tensor:
    """The head layout of the published H2Q: (B, T, D) reinterpreted, not transposed, as (B, H, T, d) → (B, T, D).

    A position sees only part of what lies before it, and which part depends on T. For imported checkpoints only.
    """
    batch, length, _ = qkv.shape
    query, key, value = (part.reshape(batch, heads, length, -1) for part in qkv.chunk(3, dim=-1))
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.reshape(batch, length, -1)


def attend_ref(qkv: Tensor, heads: int) -> Tensor:
    """`attend` head by head, with the score written as Re(q · conj(k)); (B, T, 3D) → (B, T, D)."""
    length = qkv.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=qkv.device).tril()
    outputs = []
    for query, key, value in zip(*(part.chunk(heads, dim=-1) for part in qkv.chunk(3, dim=-1))):
        q, k = (x.unflatten(-1, (-1, 4)) for x in (query[:, :, None], key[:, None]))
        conjugate = k * k.new_tensor([1, -1, -1, -1])
        real = q[..., 0] * conjugate[..., 0] - (q[..., 1:] * conjugate[..., 1:]).sum(-1)
        scores = real.sum(-1) / query.shape[-1] ** 0.5
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
