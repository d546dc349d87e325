"""Writing on a document of a marked corpus, byte by byte (see `h2q.alphabet`)."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from h2q.alphabet import ALPHABET, BYTES
from h2q.config import SamplingConfig
from h2q.errors import require
from h2q.generate import Memory, stream
from h2q.model import ByteModel


def continued(
    model: ByteModel,
    document: Sequence[int],
    length: int,
    config: SamplingConfig,
    *,
    stop: bytes | None = None,
    memory: Memory | None = None,
) -> Iterator[int]:
    """At most `length` bytes behind the symbols of a document, which begins with its marker, see `h2q.generate.stream`;
    fewer where the model draws a marker, since there the next document begins.

    Raises: UserError for a model that knows no markers, and as `stream`.
    """
    vocab = model.config.vocab
    require(
        vocab == ALPHABET,
        f"only a model with markers writes documents of a kind: model.vocab must be {ALPHABET}, got {vocab}",
    )
    drawn = stream(model, document, length, config, stop=stop, memory=memory, markers=True)
    return takewhile(lambda symbol: symbol < BYTES, drawn)
