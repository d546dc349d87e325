"""Writing on a document of a marked corpus, byte by byte (see `h2q.alphabet`)."""

from collections.abc import Iterator, Sequence
from random import Random

from torch import Tensor

from h2q.alphabet import ALPHABET, BYTES
from h2q.config import SamplingConfig
from h2q.decode.cache import Recomputing
from h2q.decode.session import Session
from h2q.errors import require
from h2q.generate import sample
from h2q.model import ByteModel


def continued(model: ByteModel, document: Sequence[int], length: int, config: SamplingConfig) -> Iterator[int]:
    """At most `length` bytes behind the symbols of a document, which begins with its marker, each as soon as it is
    drawn; fewer where the model draws a marker, since there the next document begins. The same seed gives the same.

    A model with a state reads the whole document; of another the window slides, as `h2q.generate.stream` has it.
    Raises: UserError for a model that knows no markers, and if its logits are not finite.
    """
    vocab = model.config.vocab
    require(
        vocab == ALPHABET,
        f"only a model with markers writes documents of a kind: model.vocab must be {ALPHABET}, got {vocab}",
    )
    random, read = Random(config.seed), Session(model).read if model.config.carries else _Sliding(model)
    unread = list(document)
    for _ in range(length):
        symbol = sample(read(unread), config, random)
        if symbol >= BYTES:
            return
        yield symbol
        unread = [symbol]


class _Sliding:
    """A session of a model without a state: all that it knows is the window, recomputed for every byte."""

    def __init__(self, model: ByteModel) -> None:
        self._next, self._window = Recomputing(model), model.config.seq_len
        self._context: list[int] = []

    def __call__(self, symbols: Sequence[int]) -> Tensor:
        if len(self._context) + len(symbols) > self._window:
            kept = max(0, self._window - max(1, self._window // 2) - len(symbols) + 1)
            self._context = self._context[-kept:] if kept else []
        self._context = [*self._context, *symbols][-self._window :]
        return self._next(self._context)
