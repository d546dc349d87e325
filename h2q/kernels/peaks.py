"""Logits that rise around predicted values: for every value v of a byte, −Σ_k a_k log(s_k² + (v − m_k)²) is added.

A product of Student's t distributions over the values of a byte (Hinton, "Training products of experts", 2002), up to
what the softmax takes away: m_k is the value that is predicted, s_k how far off it is, a_k how quickly the tails fall.
Shapes: `B` lanes, `T` bytes, `K` peaks, `V` alphabet, of which the first 256 symbols are the values.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from h2q.alphabet import BYTES

ROWS = 128
"""Positions that a CPU computes at once: their (rows, 256) float32 numbers stay in its second cache."""


def add_peaks(logits: Tensor, mean: Tensor, square: Tensor, power: Tensor) -> Tensor:
    """Logits (B, T, V), m, s² and a (B, T, K), all of one dtype → logits (B, T, V)."""
    return _Peaks.apply(logits, mean, square, power)  # type: ignore[return-value]


def add_peaks_ref(logits: Tensor, mean: Tensor, square: Tensor, power: Tensor) -> Tensor:
    """The same by the formula."""
    values = torch.arange(BYTES, dtype=mean.dtype, device=mean.device)[:, None]
    apart = (values - mean.unsqueeze(-2)).square() + square.unsqueeze(-2)
    rise = -(power.unsqueeze(-2) * apart.log()).sum(-1)
    return torch.cat((logits[..., :BYTES] + rise, logits[..., BYTES:]), dim=-1)


class _Peaks(Function):
    """Nothing of the size of the logits is kept: the backward pass computes the logarithms again."""

    @staticmethod
    def forward(ctx, logits: Tensor, mean: Tensor, square: Tensor, power: Tensor):  # type: ignore[override]
        ctx.save_for_backward(mean, square, power)
        out = logits.clone()
        for (rows, m, s, a), values in _parts(out, mean, square, power):
            for k in range(m.shape[1]):
                apart = (values - m[:, k, None]).square_().add_(s[:, k, None])
                rows -= apart.log_().mul_(a[:, k, None])
        return out

    @staticmethod
    def backward(ctx, to_out: Tensor):  # type: ignore[override]
        mean, square, power = ctx.saved_tensors
        results = [torch.empty_like(part) for part in (mean, square, power)]
        to_out = to_out.contiguous()
        for (rows, m, s, a, to_m, to_s, to_a), values in _parts(to_out, mean, square, power, *results):
            for k in range(m.shape[1]):
                off = values - m[:, k, None]
                apart = (off * off).add_(s[:, k, None])
                share = rows / apart
                to_s[:, k] = -a[:, k] * share.sum(1)
                to_m[:, k] = 2 * a[:, k] * share.mul_(off).sum(1)
                to_a[:, k] = -apart.log_().mul_(rows).sum(1)
        return to_out, *results


def _parts(logits: Tensor, *others: Tensor):
    """Rows of the values' logits, and of the others beside them; on a CPU few at a time. Then the values."""
    flat = [logits.flatten(0, 1)[:, :BYTES], *(other.flatten(0, 1) for other in others)]
    values = torch.arange(BYTES, dtype=logits.dtype, device=logits.device)
    count = ROWS if logits.device.type == "cpu" else max(1, len(flat[0]))
    for parts in zip(*(part.split(count) for part in flat), strict=True):
        yield parts, values
