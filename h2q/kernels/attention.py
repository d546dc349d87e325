"""Causal attention of a short context on a CPU: its probabilities stored, a few heads at a time.

Shapes: `B` lanes, `T` bytes of context, `H` heads, `d` channels of a head.
"""

import torch
from torch import Tensor
from torch.autograd import Function

SHORT_CONTEXT = 512
"""Up to here plain products beat the flash kernel of torch on a CPU: at 24 × 128, 20 ms forward and backward instead
of 28 in fp32, 13 instead of 47 in bf16 (2 cores of AMD EPYC, Zen 4). It stores T × T probabilities of each head."""

CACHED_SCORES = 1 << 20
"""Scores computed at a time by the short attention, so that they stay in cache: 4 MiB in fp32."""


def short_attention(qkv: Tensor, slopes: Tensor | None = None) -> Tensor:
    """Queries, keys and values (B, T, 3, H, d) → (B, H, T, d); slopes (H,), where given, times the distance of a pair
    are taken off its score."""
    return _ShortAttention.apply(qkv, slopes)  # type: ignore[return-value]


def distance_bias(slopes: Tensor, length: int) -> Tensor:
    """−slope × distance of every pair of positions, −∞ for what lies ahead: slopes (H,) → (H, T, T)."""
    position = torch.arange(length, device=slopes.device, dtype=slopes.dtype)
    ahead = slopes.new_full((length, length), float("-inf")).triu(1)
    return torch.addcmul(ahead, slopes[:, None, None], position - position[:, None])


class _ShortAttention(Function):
    """Causal attention with its probabilities stored, a few heads at a time: (B, T, 3, H, d) → (B, H, T, d)."""

    @staticmethod
    def forward(ctx, qkv: Tensor, slopes: Tensor | None) -> Tensor:  # type: ignore[override]
        batch, length, _, heads, size = qkv.shape
        parts = qkv.permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = parts.flatten(1, 2)
        future = qkv.new_full((length, length), float("-inf")).triu(1)
        probabilities, mixed = query.new_empty(len(query), length, length), torch.empty_like(value)
        bias = None if slopes is None else distance_bias(slopes, length).to(qkv.dtype)
        for some in _some_heads(len(query), length, 1 if bias is None else heads):
            scores = probabilities[some]
            torch.baddbmm(future, query[some], key[some].transpose(1, 2), alpha=size**-0.5, out=scores)
            if bias is not None:
                scores.view(-1, *bias.shape).add_(bias)
            torch.softmax(scores, -1, out=scores)
            torch.bmm(scores, value[some], out=mixed[some])
        ctx.save_for_backward(parts, probabilities, slopes)
        return mixed.view(batch, heads, length, size)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        parts, probabilities, slopes = ctx.saved_tensors
        heads, by_pair = parts.shape[2], 0
        query, key, value = parts.flatten(1, 2)
        gradients, scale = torch.empty_like(parts), parts.shape[-1] ** -0.5
        to_query, to_key, to_value = gradients.flatten(1, 2)
        g = g.reshape(query.shape)
        for some in _some_heads(len(query), g.shape[1], 1 if slopes is None else heads):
            chosen = probabilities[some]
            torch.bmm(chosen.transpose(1, 2), g[some], out=to_value[some])
            to_scores = torch.bmm(g[some], value[some].transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(to_scores, chosen, -1, chosen.dtype, grad_input=to_scores)
            if slopes is not None:
                by_pair = by_pair + to_scores.view(-1, heads, *to_scores.shape[1:]).sum(0, dtype=slopes.dtype)
            to_scores.mul_(scale)
            torch.bmm(to_scores, key[some], out=to_query[some])
            torch.bmm(to_scores.transpose(1, 2), query[some], out=to_key[some])
        to_slopes = None
        if slopes is not None:
            position = torch.arange(probabilities.shape[1], dtype=slopes.dtype)
            to_slopes = (by_pair * (position - position[:, None])).sum((1, 2))
        return gradients.permute(1, 3, 0, 2, 4).contiguous(), to_slopes


def _some_heads(count: int, length: int, together: int) -> list[slice]:
    """As many heads at a time as stay in cache; so many are never taken apart."""
    step = max(1, CACHED_SCORES // length**2 // together) * together
    return [slice(start, start + step) for start in range(0, count, step)]
