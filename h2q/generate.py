"""Sampling bytes from a model, one at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from random import Random
from typing import Any

import torch
from torch import Tensor

from h2q.alphabet import ALPHABET, BYTES
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
    prompt: Sequence[int],
    length: int,
    config: SamplingConfig,
    *,
    stop: bytes | None = None,
    next_logits: NextLogits | None = None,
    memory: "Memory | None" = None,
    markers: bool = False,
) -> Iterator[int]:
    """At most `length` new bytes after the prompt, bytes or symbols, each as soon as it is drawn. With `markers` those
    of the model's alphabet may be drawn, too.

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
    prompt = _symbols(model, prompt)
    _check(model, prompt if memory is None else memory.unread + prompt, length)
    require(stop is None or len(stop) > 0, "the stop string must hold at least one byte")
    window = model.config.seq_len
    if memory is not None:
        drawn = memory.write(prompt, length, config, markers=markers)
    elif next_logits is None and _is_written_on_a_gpu(model):
        drawn = _written(model, bytes(prompt[-window:]), length, config)
    else:
        drawn = _drawn(next_logits or decoder(model), prompt[-window:], length, config, window, markers)
    return drawn if stop is None else _until(drawn, stop)


class Memory:
    """What a model with a state knows of a text that it continues, and where its random numbers stand."""

    def __init__(self, model: ByteModel, seed: int) -> None:
        self._model, self.session = model, Session(model)
        self.random = Random(seed)
        self.unread = _symbols(model, b"")
        """The last byte of the text, which the session has not read yet; none at the beginning."""

    def take(self, prompt: Sequence[int]) -> None:
        """Go on behind the prompt, of which the last byte stays unread. Raises: UserError as `stream`."""
        text = self.unread + _symbols(self._model, prompt)
        _check(self._model, text, 0)
        self.session.read(text[:-1])
        self.unread = text[-1:]

    def write(
        self, prompt: Sequence[int], length: int, config: SamplingConfig, *, markers: bool = False
    ) -> Iterator[int]:
        """`length` bytes behind the text and the prompt, or symbols with `markers`."""
        self.take(prompt)
        for _ in range(length):
            logits = self.session.read(self.unread)
            byte = sample(logits if markers else logits[:BYTES], config, self.random)
            self.unread = _symbols(self._model, (byte,))
            yield byte

    def saved(self) -> dict[str, Tensor]:
        """All of it as tensors by name, see `resume`."""
        _, words, _ = self.random.getstate()
        dtype = torch.uint8 if self._model.config.vocab <= BYTES else torch.int16
        own = {"unread": torch.tensor(list(self.unread), dtype=dtype), "random": torch.tensor(words)}
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
            self.unread = _symbols(self._model, unread.tolist())
            _check(self._model, self.unread, 0)
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
    if model.config.carries or not _plain(model):
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


def _symbols(model: ByteModel, text: Sequence[int]) -> Any:
    """Bytes, or of a model with markers a list of symbols."""
    return bytes(text) if model.config.vocab <= BYTES else list(text)


def _plain(model: ByteModel) -> bool:
    """Whether it is of bytes alone: others are read by a session, or by the model itself."""
    return model.strides is None and model.config.vocab <= BYTES


def _is_written_on_a_gpu(model: ByteModel) -> bool:
    return model.device.type == "cuda" and model.config.head_layout == "split" and _plain(model)


def _check(model: ByteModel, prompt: Sequence[int], length: int) -> None:
    vocab = model.config.vocab
    require(len(prompt) > 0, "the prompt must hold at least one byte")
    require(length >= 0, f"length must be at least 0 bytes, got {length}")
    require(
        vocab <= ALPHABET,
        f"the model's alphabet has {vocab} symbols: only one of at most {ALPHABET} can be written as bytes and markers",
    )
    foreign = next((i for i, byte in enumerate(prompt) if byte >= vocab), None)
    if foreign is not None:
        found = f"byte {prompt[foreign]} at offset {foreign}"
        require(False, f"the prompt must be of the model's alphabet, 0 to {vocab - 1}, got {found}")


def _require_finite(finite: bool) -> None:
    require(finite, "the model's logits are not finite: its training has diverged")


def _drawn(
    next_logits: NextLogits, context: Any, length: int, config: SamplingConfig, window: int, markers: bool
) -> Iterator[int]:
    """Bytes drawn on the host, one at a time."""
    random = Random(config.seed)
    for _ in range(length):
        logits = next_logits(context)
        byte = sample(logits if markers else logits[:BYTES], config, random)
        yield byte
        context = slide(context, window) + type(context)((byte,))


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
    end: list[int] = []
    for byte in drawn:
        yield byte
        end = [*end, byte][-len(stop) :]
        if end == list(stop):
            return


def slide(context: Any, window: int) -> Any:
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
