"""Causal attention over quaternion channels, and the phase rotation of its output.

Shapes: `B` lanes, `T` bytes of context, `D` width, `H` heads; four consecutive channels are one quaternion.
"""

import torch
from torch import Tensor
from torch.nn import functional

PHASE_EPS = 1e-6


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Causal attention of (B, T, 3D) queries, keys and values → (B, T, D).

    The score of a head is Re(q · conj(k)) summed over its quaternions: the plain dot product of its channels, so that
    flash attention serves.
    """
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.transpose(1, 2).flatten(-2)


def attend_published(qkv: Tensor, heads: int) -> Tensor:
    """The head layout of the published H2Q: (B, T, D) reinterpreted, not transposed, as (B, H, T, D/H).

    A position sees only part of what lies before it, and which part depends on T. For imported checkpoints only.
    """
    batch, length, _ = qkv.shape
    query, key, value = (part.reshape(batch, heads, length, -1) for part in qkv.chunk(3, dim=-1))
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.reshape(batch, length, -1)


def attend_ref(qkv: Tensor, heads: int) -> Tensor:
    """`attend` head by head, with the score written as Re(q · conj(k))."""
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


def rotate_phase_ref(y: Tensor) -> Tensor:
    """y (..., D) → y / sqrt(|y|² + 1e-6) · Re(y) for each quaternion: its phase, with its real part as energy."""
    quaternion = y.unflatten(-1, (-1, 4))
    norm = (quaternion.square().sum(-1, keepdim=True) + PHASE_EPS).sqrt()
    return (quaternion / norm * quaternion[..., :1]).flatten(-2)


rotate_phase = rotate_phase_ref
