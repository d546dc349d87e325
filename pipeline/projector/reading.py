"""One moment of a text, read: what was there, what the state says was there, what it expects, and what came."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.cells import cell_len
from rich.text import Text
from torch import Tensor

from h2q.projector import Projector
from pipeline.corpus.side_by_side import Bytes
from pipeline.projector.config import check_offset
from pipeline.projector.core import Reader

WARM = 1 << 14
"""Bytes before a moment from which on the core reads: it has forgotten what lies before them."""

WRITTEN = 256
"""Moments of which is written at once."""

ROW = 64
"""Bytes in a row of what is shown."""

_SIGNS = {9: "⇥", 10: "⏎", 13: "␍"}


@dataclass(frozen=True)
class Reading:
    """The bytes around the moment before byte `offset`, as they stand in the text."""

    offset: int
    was: bytes
    said: bytes
    """What the projector wrote of the state, freely, for `was`."""
    came: bytes
    expected: bytes
    """The same for `came`."""

    def rows(self) -> Iterator[tuple[str, bytes, bytes | None]]:
        """What is shown, a row at a time: a label, its bytes, and what they should be (None: they are the truth)."""
        for truth, written, names in (
            (self.was, self.said, ("was", "says")),
            (self.came, self.expected, ("came", "expects")),
        ):
            for at in range(0, len(truth), ROW):
                yield names[0], truth[at : at + ROW], None
                yield names[1], written[at : at + ROW], truth[at : at + ROW]

    def plain(self) -> str:
        """For a file: under each byte that is wrong stands a mark."""
        lines = [f"state behind byte {self.offset:,}"]
        for label, data, truth in self.rows():
            lines.append(f"{label:>8}  {''.join(signs(data))}")
            if truth is not None:
                lines.append(" " * 10 + "".join(" " if a == b else "^" for a, b in zip(data, truth, strict=True)))
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def coloured(self) -> Text:
        """For a terminal: green where it is right, red and underlined where it is wrong."""
        text = Text(f"state behind byte {self.offset:,}\n", style="bold")
        for label, data, truth in self.rows():
            text.append(f"{label:>8}  ", style="dim")
            for place, sign in enumerate(signs(data)):
                end = place + cell_len(sign)
                right = truth is None or data[place:end] == truth[place:end]
                text.append(sign, style="" if truth is None else "green" if right else "red underline")
            text.append("\n")
        return text


def signs(data: bytes) -> list[str]:
    """A sign for each byte, together as wide as there are bytes: a character of UTF-8 at its first byte, which takes
    the place of the second one too where it is wide, dots for the others and for what is none."""
    shown = [_SIGNS.get(byte, chr(byte) if 32 <= byte < 127 else "·") for byte in data]
    for at, byte in enumerate(data):
        size = 2 if 0xC2 <= byte < 0xE0 else 3 if 0xE0 <= byte < 0xF0 else 4 if 0xF0 <= byte < 0xF5 else 0
        letter = data[at : at + size].decode("utf-8", errors="replace")
        wide = cell_len(letter)
        if size and len(letter) == 1 and letter.isprintable() and letter != "\ufffd" and wide:
            shown[at : at + wide] = [letter, ""][:wide]
    return shown


def read_at(core: Reader, model: Projector, data: Bytes, offset: int) -> Reading:
    """The moment before byte `offset` of the text. Raises: UserError where there is none, see `check_offset`."""
    return next(read_along(core, model, data, [offset]))


def read_along(core: Reader, model: Projector, data: Bytes, offsets: list[int]) -> Iterator[Reading]:
    """The moments before bytes of the text, whose offsets rise: the core reads on from one to the next."""
    for offset in offsets:
        check_offset(len(data), offset)
    model.eval()
    for at in range(0, len(offsets), WRITTEN):
        some = offsets[at : at + WRITTEN]
        features = torch.cat(list(_moments(core, model, data, some)))
        last = model.in_order(model.freely(features, model.projector.last)).tolist()
        ahead = model.freely(features, model.projector.next, ahead=True).tolist()
        for offset, said, expected in zip(some, last, ahead, strict=True):
            was = data.read(max(0, offset - model.projector.last), offset).tobytes()
            came = data.read(offset, min(len(data), offset + model.projector.next)).tobytes()
            yield Reading(offset, was, bytes(said)[-len(was) :], came, bytes(expected)[: len(came)])


def _moments(core: Reader, model: Projector, data: Bytes, offsets: list[int]) -> Iterator[Tensor]:
    """The numbers of each moment, (1, F)."""
    length = model.config.seq_len
    at_once = length if core.attends else 1
    state, at = core.new_state(1), max(0, offsets[0] - WARM)

    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return core.moment(torch.from_numpy(data.read(start, stop).copy()).to(model.device).long()[None], state)

    for offset in offsets:
        while at < offset - at_once:
            stop = min(offset - at_once, at + length)
            _, state = read(at, stop)
            at = stop
        features, _ = read(at, offset)
        yield features
