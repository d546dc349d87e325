"""Sampling bytes from a model, one at a time."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from random import Random

import torch
from torch import Tensor

from h2q.config import SamplingConfig
from h2q.decode.cache import NextLogits, decoder
from h2q.decode.graph import Writer
from h2q.decode.session import Session
from h2q.errors import UserError, require
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
    memory: "Memory | None" = None,
) -> Iterator[int]:
    """At most `length` new bytes after the prompt, each as soon as it is drawn.

    A byte is drawn from the model given its context: at first the last `seq_len` bytes of the prompt. A context that
    is full slides by half a window before it takes one more byte, so that its positions keep their meaning for half a
    window. The last byte is the one that completes `stop` (in the new bytes alone). The same seed gives the same
    bytes. `next_logits` replaces the model's `decoder`. The model must not change meanwhile; its mode does not matter.
    On a GPU bytes are drawn there, a few ahead of the one that is taken.

    A model with a state reads the whole prompt, and nothing slides. `memory`: what it goes on from, and where it leaves
    what it knows after each byte; with one that has read or drawn bytes already the prompt may be empty.

    Raises: UserError, before the first byte, for an empty prompt or stop, a byte that is not of the model's alphabet,
    a negative length; with the byte it would have been, if the logits are not finite.
    """
    if model.config.carries and next_logits is None:
        memory = memory or Memory(model, config.seed)
    require(memory is None or model.config.carries, "only a model with a state goes on from what it knows")
    _check(model, (b"" if memory is None else memory.unread) + prompt, length)
    require(stop is None or len(stop) > 0, "the stop string must hold at least one byte")
    window = model.config.seq_len
    if memory is not None:
        drawn = memory.write(prompt, length, config)
    elif next_logits is None and model.device.type == "cuda" and model.config.head_layout == "split":
        drawn = _written(model, prompt[-window:], length, config)
    else:
        drawn = _drawn(next_logits or decoder(model), prompt[-window:], length, config, window)
    return drawn if stop is None else _until(drawn, stop)


class Memory:
    """What a model with a state knows of a text that it continues, and where its random numbers stand."""

    def __init__(self, model: ByteModel, seed: int) -> None:
        self._model, self.session = model, Session(model)
        self.random = Random(seed)
        self.unread = b""
        """The last byte of the text, which the session has not read yet; none at the beginning."""

    def take(self, prompt: bytes) -> None:
        """Go on behind the prompt, of which the last byte stays unread. Raises: UserError as `stream`."""
        _check(self._model, self.unread + prompt, 0)
        self.session.read((self.unread + prompt)[:-1])
        self.unread = (self.unread + prompt)[-1:]

    def write(self, prompt: bytes, length: int, config: SamplingConfig) -> Iterator[int]:
        """`length` bytes behind the text and the prompt."""
        self.take(prompt)
        for _ in range(length):
            byte = sample(self.session.read(self.unread), config, self.random)
            self.unread = bytes((byte,))
            yield byte

    def saved(self) -> dict[str, Tensor]:
        """All of it as tensors by name, see `resume`."""
        _, words, _ = self.random.getstate()
        own = {"unread": torch.tensor(list(self.unread), dtype=torch.uint8), "random": torch.tensor(words)}
        return self.session.saved() | own

    def resume(self, saved: dict[str, Tensor], seed: int = 0) -> None:
        """Go on from what another memory of the same model saved, bit for bit as if it had not stopped; with a `seed`
        other than 0, with random numbers of its own.

        Raises: UserError for what is not of this model, or damaged.
        """
        parts = dict(saved)
        words, unread = (parts.pop(name, torch.empty(0)) for name in ("random", "unread"))
        self.session.resume(parts)
        try:
            self.random.setstate((3, tuple(words.tolist()), None))
            self.unread = bytes(unread.tolist())
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError("the state is damaged: begin without it") from error
        require(
            len(self.unread) == 1, f"the state must have 1 byte to read, found {len(self.unread)}: begin without it"
        )
        if seed:
            self.random.seed(seed)


def generate_batch(
    model: ByteModel, prompts: list[bytes], length: int, config: SamplingConfig, *, dtype: torch.dtype | None = None
) -> list[bytes]:
    """`length` new bytes behind each prompt, all streams in step, drawn on the model's device.

    Stream i is what `stream` gives with the seed `config.seed` + i, up to rounding. `dtype` is that of matrix products
    and of the keys and values that are kept (None: the parameters').

    Raises: UserError as `stream`; for prompts whose last `seq_len` bytes differ in number; for the published head
    layout, which keeps nothing.
    """
    window = model.config.seq_len
    if model.config.carries:
        configs = [replace(config, seed=config.seed + i) for i in range(len(prompts))]
        return [bytes(stream(model, prompt, length, each)) for prompt, each in zip(prompts, configs)]
    for prompt in prompts:
        _check(model, prompt, length)
    contexts = [prompt[-window:] for prompt in prompts]
    lengths = sorted({len(context) for context in contexts})
    require(len(lengths) <= 1, f"the prompts must have one length, got {' and '.join(map(str, lengths))} bytes")
    if not prompts or length == 0:
        return [b"" for _ in prompts]
    randoms = [Random(config.seed + i) for i in range(len(prompts))]
    pieces = []
    for piece in Writer(model, len(prompts), config, dtype).write(contexts, length, randoms):
        _require_finite(int(piece.max()) < model.config.vocab)
        pieces.append(piece)
    return [row.tobytes() for row in torch.cat(pieces, dim=1).to(torch.uint8).numpy()]


def _check(model: ByteModel, prompt: bytes, length: int) -> None:
    vocab = model.config.vocab
    require(len(prompt) > 0, "the prompt must hold at least one byte")
    require(length >= 0, f"length must be at least 0 bytes, got {length}")
    require(vocab <= 256, f"the model's alphabet has {vocab} symbols: only one of at most 256 can be written as bytes")
    foreign = next((i for i, byte in enumerate(prompt) if byte >= vocab), None)
    if foreign is not None:
        found = f"byte {prompt[foreign]} at offset {foreign}"
        require(False, f"the prompt must be of the model's alphabet, 0 to {vocab - 1}, got {found}")


def _require_finite(finite: bool) -> None:
    require(finite, "the model's logits are not finite: its training has diverged")


def _drawn(next_logits: NextLogits, context: bytes, length: int, config: SamplingConfig, window: int) -> Iterator[int]:
    """Bytes drawn on the host, one at a time."""
    random = Random(config.seed)
    for _ in range(length):
        byte = sample(next_logits(context), config, random)
        yield byte
        context = slide(context, window) + bytes((byte,))


def _written(model: ByteModel, context: bytes, length: int, config: SamplingConfig) -> Iterator[int]:
    """Bytes drawn on the device."""
    if length == 0:
        return
    pieces = Writer(model, 1, config).write([context], length, [Random(config.seed)])
    for byte in chain.from_iterable(piece[0].tolist() for piece in pieces):
        _require_finite(byte < model.config.vocab)
        yield byte


def _until(drawn: Iterator[int], stop: bytes) -> Iterator[int]:
    """The bytes up to and with the one that completes `stop`."""
    end = b""
    for byte in drawn:
        yield byte
        end = (end + bytes((byte,)))[-len(stop) :]
        if end == stop:
            return


def slide(context: bytes, window: int) -> bytes:
    """The context with room for one more byte: a full one without its older half."""
    return context if len(context) < window else context[max(1, window // 2) :]


def sample(logits: Tensor, config: SamplingConfig, random: Random) -> int:
    """One byte drawn from logits (V,).

    Raises: UserError if they are not finite.
    """
    logits = logits.to("cpu", torch.float64, copy=True)
    best = logits.max().item()
    _require_finite(math.isfinite(best))
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
