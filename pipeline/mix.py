"""A mix as an option: kinds of documents, where each is from, and how many lanes it has."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, get_args

from h2q.alphabet import Kind
from h2q.errors import UserError, require
from pipeline.shown import without_secrets

EMBEDDED = "embedded"
"""What stands for documents that need no file and no network."""
HUB = "hub:"
"""Before the name of a data set of the hub."""


class Part(NamedTuple):
    """Documents of one kind in a mix. `where`: a path or URI, `hub:NAME[:CONFIG][@REVISION]` or `embedded`."""

    kind: Kind
    where: str
    lanes: int

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors within name the part, and the option that it has in a mix."""
        try:
            yield
        except UserError as error:
            told = re.sub(r"--corpus\.(path|source) ", f"--corpus.mix {self.kind}=", str(error))
            raise UserError(f"{self.kind} in corpus.mix: {told}") from error


def read_mix(text: str) -> tuple[Part, ...]:
    """The parts of `KIND=WHERE@LANES,…`; none of no text. Raises: UserError naming what is not of this form."""
    # A path may hold commas, and the name of a data set an @.
    parts = [_part(one.strip()) for one in re.split(r",(?=\s*[a-z]+\s*=)", text)] if text.strip() else []
    kinds = [part.kind for part in parts]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    require(twice is None, f"corpus.mix must name each kind once, got {twice} twice: put its files into one folder")
    return tuple(parts)


def shown_mix(text: str) -> str:
    """The mix without the passwords of its URIs."""
    return ",".join(f"{kind}={without_secrets(where)}@{lanes}" for kind, where, lanes in read_mix(text))


def _part(text: str) -> Part:
    kind, _, rest = text.partition("=")
    where, _, lanes = rest.rpartition("@")
    kind, where = kind.strip(), where.strip()
    require(
        bool(where) and re.fullmatch(r"[1-9][0-9]{0,8}", lanes) is not None,
        "corpus.mix must be KIND=WHERE@LANES with one comma between, like text=FOLDER@16,image=embedded@4, got "
        f"{without_secrets(text)!r}",
    )
    kinds = get_args(Kind)
    require(kind in kinds, f"a kind in corpus.mix must be one of {', '.join(kinds)}, got {kind!r}")
    require(
        (kind, where) != ("bytes", EMBEDDED), "corpus.mix has nothing embedded of kind bytes: give bytes=FOLDER@LANES"
    )
    return Part(kind, where, int(lanes))  # type: ignore[arg-type]
