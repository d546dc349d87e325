"""Sampling bytes from a model, one at a time."""

import math
from collections.abc import Iterator
from random import Random

import torch
from torch import Tensor

from h2q.config import SamplingConfig
from h2q.decode.cache import NextLogits, decoder
from h2q.errors import require
from h2q.model import ByteModel


def generate(
    model: ByteModel,
    prompt: bytes,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: bytes | None = None,
) -> bytes:
    """At most `length` new bytes after the prompt; see `stream`."""
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    return bytes(stream(model, prompt, length, config, stop=stop))


def stream(
    model: ByteModel,
    prompt: bytes,
    length: int,
    config: SamplingConfig,
    *,
    stop: bytes | None = None,
    next_logits: NextLogits | None = None,
) -> Iterator[int]:
    """At most `length` new bytes after the prompt, each as soon as it is drawn.

    A byte is drawn from the model given its context: at first the last `seq_len` bytes of the prompt. A context that
    is full slides by half a window before it takes one more byte, so that its positions keep their meaning for half a
    window. The last byte is the one that completes `stop` (in the new bytes alone). The same seed gives the same
    bytes. `next_logits` replaces the model's `decoder`. The model must not change meanwhile; its mode does not matter.

    Raises: UserError, before the first byte, for an empty prompt or stop, a byte that is not of the model's alphabet,
    a negative length; with the byte it would have been, if the logits are not finite.
    """
    vocab = model.config.vocab
    require(len(prompt) > 0, "the prompt must hold at least one byte")
    require(length >= 0, f"length must be at least 0 bytes, got {length}")
    require(stop is None or len(stop) > 0, "the stop string must hold at least one byte")
    require(vocab <= 256, f"the model's alphabet has {vocab} symbols: only one of at most 256 can be written as bytes")
    foreign = next((i for i, byte in enumerate(prompt) if byte >= vocab), None)
    if foreign is not None:
        found = f"byte {prompt[foreign]} at offset {foreign}"
        require(False, f"the prompt must be of the model's alphabet, 0 to {vocab - 1}, got {found}")
    return _stream(next_logits or decoder(model), prompt, length, config, stop, model.config.seq_len)


def _stream(
    next_logits: NextLogits, prompt: bytes, length: int, config: SamplingConfig, stop: bytes | None, window: int
) -> Iterator[int]:
    random = Random(config.seed)
    context, end = prompt[-window:], b""
    for _ in range(length):
        byte = sample(next_logits(context), config, random)
        yield byte
        if stop is not None:
            end = (end + bytes((byte,)))[-len(stop) :]
            if end == stop:
                return
        context = slide(context, window) + bytes((byte,))


def slide(context: bytes, window: int) -> bytes:
    """The context with room for one more byte: a full one without its older half."""
    return context if len(context) < window else context[max(1, window // 2) :]


def sample(logits: Tensor, config: SamplingConfig, random: Random) -> int:
    """One byte drawn from logits (V,).

    Raises: UserError if they are not finite.
    """
    logits = logits.to("cpu", torch.float64, copy=True)
    best = logits.max().item()
    require(math.isfinite(best), "the model's logits are not finite: its training has diverged")
    if config.temperature == 0:
        return int(logits.argmax())
    # Less the largest first: a small temperature must not overflow.
    weights = logits.sub_(best).div_(config.temperature).exp_()
    order = None
    if config.top_k is not None or config.top_p is not None or config.min_p is not None:
        weights, order = weights.sort(descending=True, stable=True)
        weights = weights[: _kept(weights, config)]
    cumulative = weights.cumsum(0)
    drawn = int(torch.searchsorted(cumulative, random.random() * cumulative[-1].item(), right=True))
    return drawn if order is None else int(order[drawn])


def _kept(weights: Tensor, config: SamplingConfig) -> int:
    """How many of the weights (V,), largest first, the narrowest of the cuts keeps; never less than one.

    Each cut is made on the whole distribution: the `top_k` likeliest bytes; the fewest likeliest whose probabilities
    sum to `top_p`; those at least `min_p` times as likely as the likeliest.
    """
    kept = [len(weights)]
    if config.top_k is not None:
        kept.append(config.top_k)
    if config.top_p is not None and config.top_p < 1:
        shares = weights.cumsum(0) / weights.sum()
        kept.append(1 + int((shares < config.top_p).sum()))
    if config.min_p is not None:
        kept.append(int((weights >= config.min_p * weights[0]).sum()))
    return min(kept)
