"""Causal attention over quaternion channels, and the phase rotation of its output.

Shapes: `B` lanes, `T` bytes of context, `D` width, `H` heads, `d = D / H` channels of a head, `n` positions.
Four consecutive channels are one quaternion. *Planar* order of channels puts the same component of all quaternions
side by side, so that arithmetic on components runs over long contiguous rows.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

PHASE_EPS = 1e-6

SHORT_CONTEXT = 512
"""Up to here plain products beat the flash kernel of torch on a CPU: at 24 × 128, 20 ms forward and backward instead
of 28 in fp32, 13 instead of 47 in bf16 (2 cores of AMD EPYC, Zen 4). It stores T × T probabilities of each head."""

CACHED_SCORES = 1 << 20
"""Scores computed at a time by the short attention, so that they stay in cache: 4 MiB in fp32."""


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Causal attention of (B, T, 3D) queries, keys and values → (B, H, T, d).

    The score of a head is Re(q · conj(k)) summed over its quaternions: the plain dot product of its channels.
    """
    qkv = qkv.unflatten(-1, (3, heads, -1))
    if qkv.device.type == "cpu" and qkv.shape[1] <= SHORT_CONTEXT:
        return _ShortAttention.apply(qkv)  # type: ignore[return-value]
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


class _ShortAttention(Function):
    """Causal attention with its probabilities stored, a few heads at a time: (B, T, 3, H, d) → (B, H, T, d)."""

    @staticmethod
    def forward(ctx, qkv: Tensor) -> Tensor:  # type: ignore[override]
        batch, length, _, heads, size = qkv.shape
        parts = qkv.permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = parts.flatten(1, 2)
        future = qkv.new_full((length, length), float("-inf")).triu(1)
        probabilities, mixed = query.new_empty(len(query), length, length), torch.empty_like(value)
        for some in _some_heads(len(query), length):
            scores = probabilities[some]
            torch.baddbmm(future, query[some], key[some].transpose(1, 2), alpha=size**-0.5, out=scores)
            torch.softmax(scores, -1, out=scores)
            torch.bmm(scores, value[some], out=mixed[some])
        ctx.save_for_backward(parts, probabilities)
        return mixed.view(batch, heads, length, size)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[override]
        parts, probabilities = ctx.saved_tensors
        query, key, value = parts.flatten(1, 2)
        gradients, scale = torch.empty_like(parts), parts.shape[-1] ** -0.5
        to_query, to_key, to_value = gradients.flatten(1, 2)
        g = g.reshape(query.shape)
        for some in _some_heads(*probabilities.shape[:2]):
            chosen = probabilities[some]
            torch.bmm(chosen.transpose(1, 2), g[some], out=to_value[some])
            to_scores = torch.bmm(g[some], value[some].transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(to_scores, chosen, -1, chosen.dtype, grad_input=to_scores)
            to_scores.mul_(scale)
            torch.bmm(to_scores, key[some], out=to_query[some])
            torch.bmm(to_scores.transpose(1, 2), query[some], out=to_key[some])
        return gradients.permute(1, 3, 0, 2, 4).contiguous()


def _some_heads(heads: int, length: int) -> list[slice]:
    step = max(1, CACHED_SCORES // length**2)
    return [slice(start, start + step) for start in range(0, heads, step)]


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


def rotate_phase(y: Tensor) -> Tensor:
    """Quaternions (n, 4, m) → y / sqrt(|y|² + 1e-6) · Re(y): a quaternion's phase, its real part as energy."""
    return _PhaseRotation.apply(y)  # type: ignore[return-value]


class _PhaseRotation(Function):
    """With i = (|y|² + ε)^-½ and gradient g of the output: dy = g i Re(y) − y i³ Re(y) (g · y), + i (g · y) at Re."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(y)
        a, inverse = _inverse_norm(y)
        return y * (a * inverse).to(y.dtype).unsqueeze(1)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        a, inverse = _inverse_norm(y)
        along = _dot(g, y).mul_(inverse)
        scale = a.mul_(inverse)
        gradient = g * scale.to(y.dtype).unsqueeze(1)
        gradient.addcmul_(y, inverse.mul_(scale).mul_(along).to(y.dtype).unsqueeze(1), value=-1)
        gradient[:, 0] += along.to(y.dtype)
        return gradient


def _inverse_norm(y: Tensor) -> tuple[Tensor, Tensor]:
    """Re(y) and (|y|² + ε)^-½, (n, m) each, new tensors; squares in float32 where float16 could not hold them."""
    real = y[:, 0].to(torch.promote_types(y.dtype, torch.float32), copy=True)
    return real, _dot(y, y).add_(PHASE_EPS).rsqrt_()


def _dot(p: Tensor, q: Tensor) -> Tensor:
    """Real inner products of quaternions (n, 4, m) → (n, m), summed in float32 at least."""
    wide = torch.promote_types(p.dtype, torch.float32)
    p, q = (p.to(wide), p.to(wide)) if p is q else (p.to(wide), q.to(wide))
    total = p[:, 0] * q[:, 0]
    for part in (1, 2, 3):
        total.addcmul_(p[:, part], q[:, part])
    return total


def rotate_phase_ref(y: Tensor) -> Tensor:
    """`rotate_phase` on consecutive channels, (..., D) → (..., D), as published."""
    quaternion = y.unflatten(-1, (-1, 4))
    norm = (quaternion.square().sum(-1, keepdim=True) + PHASE_EPS).sqrt()
    return (quaternion / norm * quaternion[..., :1]).flatten(-2)
