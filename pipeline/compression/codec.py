"""Bytes to an arithmetic code and back, by one pass that both directions share.

The pass asks for every byte in turn, with the model's logits for it; `Encoder` answers with the byte of the file and
writes its code, `Decoder` with the byte that the code holds. So both compute the same, by construction: the same
shapes in the same order, and every byte is coded before anything was computed from it.

Shapes: `L` lanes, `T` bytes of a window, `V` alphabet.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import constriction
import numpy as np
import torch
from torch import Tensor

from h2q.decode.lanes import SteppedLanes
from h2q.decode.static import StaticDecoder
from h2q.errors import require
from h2q.model import ByteModel
from pipeline.evaluation.prequential import Batch, schedule
from pipeline.evaluation.windows import lane_edges

ALPHABET = 256

Learn = Callable[[np.ndarray], None]
"""How the model learns from the chunk of every lane that was just coded, (L, length + 1)."""


class Coder(Protocol):
    """Answers which byte stands at an index of the file, given how likely each is, (256,)."""

    def code(self, index: int, likely: np.ndarray) -> int: ...


class Encoder:
    """Writes the code of the bytes that it is asked for."""

    def __init__(self, data: np.ndarray) -> None:
        self._data, self._code = data, constriction.stream.queue.RangeEncoder()  # type: ignore[attr-defined]

    def code(self, index: int, likely: np.ndarray) -> int:
        byte = int(self._data[index])
        self._code.encode(byte, _distribution(likely))
        return byte

    def result(self) -> np.ndarray:
        """The code, uint32."""
        return self._code.get_compressed()


class NoSuchCode(Exception):
    """No byte has the code that comes next: it was made by other likelihoods."""


class Decoder:
    """Reads the bytes from a code, uint32. Raises NoSuchCode where it cannot."""

    def __init__(self, code: np.ndarray) -> None:
        self._code = constriction.stream.queue.RangeDecoder(code)  # type: ignore[attr-defined]

    def code(self, index: int, likely: np.ndarray) -> int:
        try:
            return int(self._code.decode(_distribution(likely)))
        except AssertionError as error:
            raise NoSuchCode from error


def follow(
    model: ByteModel,
    size: int,
    coder: Coder,
    *,
    stride: int,
    lanes: int,
    learn: Learn | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Go through a file of `size` bytes with the coder; the bytes, uint8.

    Lanes are coded side by side, as `pipeline.evaluation.prequential.schedule` cuts them into windows: a full window
    goes on `stride` bytes further; a state goes on from byte to byte. The first byte of a lane, which nothing predicts,
    costs 8 bits. A model that learns does so behind every window (`stride` its length).

    Raises: UserError for fewer than two bytes a lane where there are several, or a model whose logits are not finite.
    """
    vocab = model.config.vocab
    require(vocab <= ALPHABET, f"a file of bytes is coded by a model of bytes: model.vocab must be 256, got {vocab}")
    data = np.zeros(size, np.uint8)
    even = np.full(ALPHABET, 1 / ALPHABET)
    for start in lane_edges(size, lanes)[:-1] if size else []:
        data[start] = coder.code(start, even)
    if size < 2:
        return data
    if model.config.carries:
        _carried(model, data, coder, lanes, learn, progress)
        return data
    window, streams = model.config.seq_len, None
    for step, batches in enumerate(schedule(size, window=window, stride=stride, lanes=lanes)):
        for batch in batches:
            if streams is None or learn is not None or len(streams.logits) != len(batch.starts):
                streams = StaticDecoder(model.eval(), len(batch.starts))
            _code_window(streams, batch, data, coder)
        done = lanes + sum((batch.length + step * stride) * len(batch.starts) for batch in batches)
        progress(min(size, done))
        if learn is not None and len(batches) == 1 and done < size:
            learn(np.stack([data[start : start + batches[0].length + 1] for start in batches[0].starts]))
    return data


def _carried(
    model: ByteModel, data: np.ndarray, coder: Coder, lanes: int, learn: Learn | None, progress: Callable[[int], None]
) -> None:
    """Code the lanes of a model with a state, byte by byte; all but perhaps the last byte of each together."""
    edges, window = lane_edges(len(data), lanes), model.config.seq_len
    starts, longest = edges[:-1], max(stop - start for start, stop in pairwise(edges))
    streams = SteppedLanes(model.eval(), model.new_state(lanes))
    for at in range(longest - 1):
        if at and at % window == 0:
            progress(at * lanes)
            if learn is not None:
                learn(np.stack([data[start + at - window : start + at + 1] for start in starts]))
                streams = SteppedLanes(model.eval(), streams.state)
        logits = streams.read(torch.from_numpy(data[[start + at for start in starts]].astype(np.int64)))
        for start, stop, likely in zip(starts, edges[1:], _probabilities(logits), strict=True):
            if start + at + 1 < stop:
                data[start + at + 1] = coder.code(start + at + 1, likely)
    progress(len(data))


@torch.inference_mode()
def _code_window(streams: StaticDecoder, batch: Batch, data: np.ndarray, coder: Coder) -> None:
    """Code the targets of a window of every lane that were not coded before, position by position."""
    known = batch.skip + 1
    rows = np.stack([data[start : start + known] for start in batch.starts])
    streams.window[:, :known] = torch.from_numpy(rows.astype(np.int64))
    streams.fill(known)
    for position in range(batch.skip, batch.length):
        if position > batch.skip:
            streams.position.fill_(position)
            streams.step()
        places = [start + position + 1 for start in batch.starts]
        data[places] = [coder.code(*each) for each in zip(places, _probabilities(streams.logits), strict=True)]
        streams.window[:, position + 1] = torch.from_numpy(data[places].astype(np.int64))


def _probabilities(logits: Tensor) -> np.ndarray:
    """(L, V) → (L, 256) float64; a byte beyond the alphabet has none."""
    likely = logits.double().softmax(-1).numpy()
    require(bool(np.isfinite(likely).all()), "the model's logits are not finite: its training has diverged")
    return np.pad(likely, ((0, 0), (0, ALPHABET - likely.shape[1])))


def _distribution(likely: np.ndarray) -> "constriction.stream.model.Categorical":  # type: ignore[name-defined]
    # Every byte keeps a share of at least 2⁻²⁴: nothing is too unlikely to be coded.
    return constriction.stream.model.Categorical(likely, perfect=False)  # type: ignore[attr-defined]
