"""Drawing one byte for each of many streams, on the device where the logits lie.

Shapes: `B` streams, `V` alphabet.
"""

import torch
from torch import Tensor

from h2q.config import SamplingConfig


def draw(logits: Tensor, config: SamplingConfig, numbers: Tensor) -> Tensor:
    """Logits (B, V) and random numbers (B,) float64 in [0, 1) → bytes (B,) int64; V where logits are not finite.

    Row by row what `h2q.generate.sample` draws with that random number, up to rounding; no value is looked at by the
    host.
    """
    logits = logits.to(torch.float64)
    best = logits.amax(-1, keepdim=True)
    if config.temperature == 0:
        return torch.where((best - best == 0)[:, 0], logits.argmax(-1), logits.shape[-1])
    # Less the largest first: a small temperature must not overflow. Where one is not finite, all become NaN.
    weights = logits.sub(best).div_(config.temperature).exp_()
    order = None
    if config.top_k is not None or config.top_p is not None or config.min_p is not None:
        weights, order = weights.sort(descending=True, stable=True)
        weights = weights * _kept(weights, config)
    cumulative = weights.cumsum(-1)
    drawn = torch.searchsorted(cumulative, (numbers * cumulative[:, -1])[:, None], right=True)
    if order is None:
        return drawn[:, 0]
    # Behind the last rank: not finite.
    beyond = order.new_full((len(order), 1), logits.shape[-1])
    return torch.cat((order, beyond), dim=-1).gather(-1, drawn)[:, 0]


def _kept(weights: Tensor, config: SamplingConfig) -> Tensor:
    """Which of the weights (B, V), largest first, all cuts keep, as ones and zeros: always a run from the first on."""
    ranks = torch.arange(weights.shape[-1], device=weights.device)
    kept = ranks < (config.top_k or weights.shape[-1])
    if config.top_p is not None and config.top_p < 1:
        shares = weights.cumsum(-1) / weights.sum(-1, keepdim=True)
        kept = kept & (ranks <= (shares < config.top_p).sum(-1, keepdim=True))
    if config.min_p is not None:
        kept = kept & (weights >= config.min_p * weights[:, :1])
    return kept
