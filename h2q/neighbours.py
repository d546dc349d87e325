"""What stands beside the next byte: a pixel's neighbours to the left and above, a sample's last ones.

In a stream of bytes the pixel above is a whole row away. The marker and the header that were read (`h2q.alphabet`) say
how far; then `TAPS` bytes there are read as numbers. No value is looked at by the host.

Shapes: `B` lanes, `T` bytes, `P` taps, `C` = `LONGEST` symbols that are carried.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from h2q.alphabet import BYTES, CARRIED, HEADER, LONGEST, MARKERS

PIXEL = (
    *((0, 1, 0), (1, 0, 0), (1, 1, 0), (1, -1, 0), (0, 2, 0), (2, 0, 0), (1, -2, 0), (1, 2, 0)),
    *((0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 0, 2), (0, 1, 2), (1, 0, 2)),
)
"""The taps of a picture: rows up, pixels to the left, channels back."""
SAMPLE = (
    *((0, back, 0) for back in range(1, 9)),
    *((0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 9, 0), (0, 10, 0), (0, 11, 0)),
)
"""The taps of a sound: none up, samples back, channels back."""
TAPS = len(PIXEL)
INSTEAD = (1, 0, 1, 1, 0, 1, 3, 2, 0, 8, 9, 0, 11, 12)
"""The tap that stands for one outside of the document; of the first two the one for the other, or both are `MIDDLE`."""
MIDDLE = 128
"""Of the values of a byte."""

NONE, GREY, RED, SOUND, HIGH, LOW, END = 0, 1, 2, 5, 6, 7, 8
"""Roles of the next byte: no neighbours; grey; red, then green, and blue or further; a sample of one byte, the high and
the low byte of one; behind the last pixel."""
ROLES = END + 1

KEPT = 16
"""Periods after which an offset is counted in whole periods no longer: more than any tap reaches back."""
OWN = CARRIED - LONGEST
"""Numbers that are carried beside the symbols: the marker, bytes since then, rows not counted in those, the header."""


class Neighbours(NamedTuple):
    """Of the byte behind each that was read."""

    values: Tensor
    """The taps as numbers, (B, T, P) float32: of bytes their values; of two-byte samples the sample over 256 for the
    high byte, and for the low byte the sample less the high byte's part."""
    role: Tensor
    """(B, T) int64."""


class _Place(NamedTuple):
    """Where the next byte stands, (B, T) int64 and bool."""

    offset: Tensor
    """In the content, less whole periods; negative in a header."""
    row: Tensor
    """Bytes of a row; 0 where there are none, or too many."""
    frame: Tensor
    """Bytes of a pixel, or of one sample in all channels; 0 where there are none."""
    unit: Tensor
    """Bytes of a sample in one channel."""
    picture: Tensor
    ended: Tensor


def new_taps() -> Tensor:
    """Where the taps of sounds and of pictures are, (2, P, 3)."""
    return torch.tensor((SAMPLE, PIXEL))


def look(
    x: Tensor, carried: Tensor | None, reset: Tensor | None = None, taps: Tensor | None = None
) -> tuple[Neighbours, Tensor | None]:
    """Symbols (B, T) behind what is carried (B, CARRIED), None where nothing is → the neighbours of each next byte, and
    what is carried on. Where `reset` (B, T) is true all before the symbol is forgotten: there are no neighbours up to
    the next marker. `taps`: `new_taps()`, there already on the device of the symbols."""
    taps = new_taps().to(x.device) if taps is None else taps
    before = x.new_zeros(len(x), OWN) if carried is None else carried[:, :OWN].long()
    place, own = _places(x, before, reset)
    symbols = x if carried is None else torch.cat((carried[:, OWN:].long(), x), dim=1)
    neighbours = Neighbours(_values(place, taps, symbols, x.shape[1]), _roles(place))
    if carried is None:
        return neighbours, None
    return neighbours, torch.cat((own, symbols[:, -LONGEST:]), dim=1).to(carried.dtype)


def _places(x: Tensor, before: Tensor, reset: Tensor | None) -> tuple[_Place, Tensor]:
    """The place of each next byte, and the numbers to carry beside the symbols, (B, OWN)."""
    at = torch.arange(x.shape[1], device=x.device).expand_as(x)
    marked = x >= BYTES
    last = torch.where(marked if reset is None else marked | reset, at, -1).cummax(1).values
    here = last >= 0
    kind = torch.where(here, (x * marked).gather(1, last.clamp(min=0)), before[:, :1])
    start = torch.where(here, last, -1 - before[:, 1:2])
    skipped = torch.where(here, 0, before[:, 2:3])
    header = []
    for number in range(HEADER):
        byte = start + 1 + number
        # A byte that is still to come is nothing yet.
        read = x.gather(1, byte.clamp(0, x.shape[1] - 1)) * (byte <= at)
        header.append(torch.where(byte >= 0, read, before[:, 3 + number, None]))
    offset = at - start - HEADER
    picture, sound = ((kind == MARKERS[name]) & (offset >= 0) for name in ("image", "audio"))
    width, height = header[0] * 256 + header[1], header[2] * 256 + header[3]
    unit = torch.where(sound, header[4], 1).clamp(min=1)
    frame = torch.where(picture, header[4], header[3] * header[4]) * (picture | sound)
    frame = frame * (frame <= LONGEST) * (unit <= 2)
    row = width * frame * picture
    row = row * (row <= LONGEST)
    rows = skipped + offset.clamp(min=0) // row.clamp(min=1)
    period = torch.where(row > 0, row, frame).clamp(min=1)
    counted = torch.where(offset < KEPT * period, offset, KEPT * period + offset % period)
    skipped = (skipped + (offset - counted) // row.clamp(min=1) * (row > 0)).clamp(max=1 << 17)
    own = torch.stack((kind, counted + HEADER, skipped, *header), dim=-1)[:, -1]
    return _Place(counted, row, frame, unit, picture, (row > 0) & (rows >= height)), own


def _roles(place: _Place) -> Tensor:
    frame, low = place.frame.clamp(min=1), place.offset % place.unit
    colour = torch.where(place.frame == 1, GREY, RED + (place.offset % frame).clamp(max=2))
    sample = torch.where(place.unit == 1, SOUND, HIGH + low)
    role = torch.where(place.picture, colour, sample) * (place.frame > 0)
    return torch.where(place.ended, END, role)


def _values(place: _Place, taps: Tensor, symbols: Tensor, length: int) -> Tensor:
    """The taps of the bytes behind the last `length` of the symbols (B, …), (B, T, P)."""
    offset, row, frame, unit, picture, _ = (part.unsqueeze(-1) for part in place)
    up, left, back = taps[picture[..., 0].long()].unbind(-1)
    distance, pixel = up * row + left * frame + back * unit, frame.clamp(min=1)
    columns, channel, low = row // pixel, offset % pixel // unit, offset % unit
    column = offset // pixel % columns.clamp(min=1) - left
    there = (frame > 0) & (distance <= offset) & (distance <= LONGEST) & (back <= channel)
    there = there & torch.where(row > 0, (column >= 0) & (column < columns), up == 0)
    newest = torch.arange(symbols.shape[1] - length, symbols.shape[1], device=symbols.device)[:, None]
    first = newest + 1 - low - distance

    def read(index: Tensor) -> Tensor:
        index = index.clamp(0, symbols.shape[1] - 1)
        return symbols.gather(1, index.expand_as(distance).flatten(1)).view_as(distance).float()

    value, second = read(first), read(first + 1)
    two = torch.where(low == 0, value + second / 256, 256 * (value - read(newest)) + second)
    value = torch.where(unit == 2, two, value)
    return _filled(value.unbind(-1), (there & (first >= 0)).unbind(-1))


def _filled(values: tuple[Tensor, ...], there: tuple[Tensor, ...]) -> Tensor:
    """All taps (B, T, P), each that is not there as another one."""
    nearest = torch.where(there[0], values[0], torch.where(there[1], values[1], MIDDLE))
    filled = [nearest]
    for number in range(1, TAPS):
        filled.append(torch.where(there[number], values[number], filled[INSTEAD[number]]))
    return torch.stack(filled, dim=-1)
