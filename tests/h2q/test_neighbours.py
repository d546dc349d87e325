"""Neighbours are found as by reading document by document, by any cut into chunks, and nothing looks ahead."""

from itertools import chain, pairwise

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from h2q.alphabet import ALPHABET, BYTES, CARRIED, HEADER, LONGEST, MARKERS
from h2q.decode.neighbours import SteppedNeighbours
from h2q.neighbours import (
    END,
    GREY,
    HIGH,
    INSTEAD,
    LOW,
    MIDDLE,
    NONE,
    PIXEL,
    RED,
    SAMPLE,
    SOUND,
    TAPS,
    Neighbours,
    look,
)
from h2q.strides import Strides


@st.composite
def documents(draw: st.DrawFn) -> list[int]:
    """One document, as the alphabet wants it or broken, whole or cut off."""
    content = draw(st.lists(st.integers(0, BYTES - 1), max_size=40))
    marker = draw(st.integers(BYTES, ALPHABET - 1))
    header = draw(
        st.sampled_from(
            [
                [0, 3, 0, 4, 1],
                [0, 2, 0, 2, 3],
                [0, 1, 0, 9, 4],
                [0, 0, 0, 0, 0],
                [255, 255, 255, 255, 255],
                [0, 5, 0, 1, 2],
            ]
        )
        if marker == MARKERS["image"]
        else st.sampled_from(
            [[0, 31, 64, 1, 1], [0, 31, 64, 2, 1], [0, 31, 64, 1, 2], [0, 31, 64, 3, 2], [0, 0, 0, 0, 3]]
        )
    )
    whole = [marker, *(header if marker >= MARKERS["image"] else []), *content]
    return whole[: draw(st.integers(1, len(whole)))]


streams = st.lists(documents(), min_size=1, max_size=4).map(lambda parts: [*chain(*parts)])


def look_ref(symbols: list[int], reset: list[bool]) -> list[tuple[list[float], int]]:
    """`look` at one lane, document by document: the taps and the role of the byte behind each symbol."""
    found, begins = [], [number for number, symbol in enumerate(symbols) if symbol >= BYTES or reset[number]]
    for begin, end in zip([0, *begins], [*begins, len(symbols)]):
        document = symbols[begin:end]
        found += [beside_ref(document[: read + 1]) for read in range(len(document))]
    return found


def beside_ref(document: list[int]) -> tuple[list[float], int]:
    """Of the byte behind the symbols of a document so far, marker, header and content."""
    nothing = [float(MIDDLE)] * TAPS, NONE
    marker, header, content = document[0], document[1 : 1 + HEADER], document[1 + HEADER :]
    picture = marker == MARKERS["image"]
    if len(header) < HEADER or not (picture or marker == MARKERS["audio"]):
        return nothing
    unit = 1 if picture else max(1, header[4])
    frame = header[4] if picture else header[3] * header[4]
    if not (1 <= frame <= LONGEST and unit <= 2):
        return nothing
    pixels, at = header[0] * 256 + header[1] if picture else 0, len(content)
    pixels *= pixels * frame <= LONGEST
    column, channel, low = at // frame % max(1, pixels), at % frame // unit, at % unit

    def tap(number: int) -> float | None:
        up, left, back = (PIXEL if picture else SAMPLE)[number]
        distance = up * pixels * frame + left * frame + back * unit
        inside = back <= channel and (0 <= column - left < pixels if pixels else up == 0)
        if not (inside and distance <= min(at, LONGEST)):
            return None
        first = at - low - distance
        if unit == 1:
            return float(content[first])
        sample = content[first] * 256 + content[first + 1]
        return sample / 256 if low == 0 else float(sample - 256 * content[at - 1])

    taps: list[float] = []
    for number in range(TAPS):
        value = tap(number)
        if value is None and number == 0:
            value = tap(1)
            value = float(MIDDLE) if value is None else value
        taps.append(taps[INSTEAD[number]] if value is None else value)
    if pixels and at // (pixels * frame) >= header[2] * 256 + header[3]:
        return taps, END
    if picture:
        return taps, GREY if frame == 1 else RED + min(2, at % frame)
    return taps, SOUND if unit == 1 else HIGH + low


def read(symbols: list[int], cuts: list[int], reset: list[bool] | None = None) -> tuple[Neighbours, Tensor | None]:
    """A lane in chunks that end at the cuts, with what is carried."""
    carried, found, flags = torch.zeros(1, CARRIED), [], None if reset is None else torch.tensor([reset])
    edges = sorted({0, len(symbols), *(cut for cut in cuts if cut < len(symbols))})
    for begin, end in pairwise(edges):
        x = torch.tensor([symbols[begin:end]])
        neighbours, carried = look(x, carried, None if flags is None else flags[:, begin:end])
        found.append(neighbours)
    return Neighbours(*(torch.cat(part, dim=1) for part in zip(*found))), carried


def far(marker: int, header: list[int], size: int) -> list[int]:
    """A document whose neighbours lie as far back as they may."""
    return [marker, *header, *torch.randint(BYTES, (size,), generator=torch.Generator().manual_seed(0)).tolist()]


@settings(max_examples=60)
@given(symbols=streams)
@example(symbols=far(MARKERS["image"], [5, 85, 0, 2, 3], 8300))  # rows of 4,095 bytes, and an end
@example(symbols=far(MARKERS["image"], [0, 2, 16, 0, 1], 600))
@example(symbols=far(MARKERS["audio"], [0, 31, 64, 255, 2], 5300))
@torch.inference_mode()
def test_one_symbol_at_a_time_gives_what_many_give(symbols):
    wanted, after = read(symbols, [])
    carried = torch.zeros(CARRIED)
    stepped = SteppedNeighbours(Strides(4), carried)
    for at, symbol in enumerate(symbols):
        values, role = stepped.read(symbol)
        assert role == wanted.role[0, at]
        if role not in (NONE, END):
            assert values == wanted.values[0, at].tolist()
    assert after is not None and torch.equal(carried, after[0])


@settings(deadline=None, max_examples=60)
@given(symbols=streams, before=st.lists(st.integers(0, 255), max_size=3), data=st.data())
def test_any_cut_gives_what_each_document_gives(symbols, before, data):
    symbols = before + symbols
    places = st.lists(st.integers(0, len(symbols) - 1), max_size=4)
    cuts, resets = data.draw(places), data.draw(places)
    reset = [at in resets for at in range(len(symbols))]
    wanted = look_ref(symbols, reset)
    for pieces in ([], cuts, list(range(len(symbols)))):
        found, _ = read(symbols, pieces, reset)
        for at, (values, role) in enumerate(wanted):
            assert found.role[0, at] == role
            assert role == NONE or found.values[0, at].tolist() == values
    assert all(torch.equal(*parts) for parts in zip(*(read(symbols, pieces, reset)[0] for pieces in ([], cuts))))


@settings(deadline=None, max_examples=30)
@given(symbols=streams, at=st.integers(0, 200), other=st.integers(0, ALPHABET - 1))
def test_a_later_symbol_changes_nothing_before_it(symbols, at, other):
    at %= len(symbols)
    changed = [*symbols[:at], other, *symbols[at + 1 :]]
    (one, _), (two, _) = (read(each, []) for each in (symbols, changed))
    assert torch.equal(one.values[:, :at], two.values[:, :at]) and torch.equal(one.role[:, :at], two.role[:, :at])
    for each, old in ((look(torch.tensor([changed]), None)[0], look(torch.tensor([symbols]), None)[0]),):
        assert torch.equal(each.values[:, :at], old.values[:, :at]) and torch.equal(each.role[:, :at], old.role[:, :at])


def test_the_pixel_above_is_a_row_away_and_the_end_is_known():
    pixels = list(range(100, 118))
    found, _ = look(torch.tensor([[MARKERS["image"], 0, 2, 0, 3, 3, *pixels, MARKERS["text"], 65]]), None)
    assert found.role[0].tolist() == [NONE] * 5 + [RED, RED + 1, RED + 2] * 6 + [END, NONE, NONE]
    above = found.values[0, 5:-3, 1].tolist()
    assert above[:3] == [MIDDLE] * 3 and above[6:] == [float(value) for value in pixels[:12]]


def test_two_bytes_of_a_sample_are_read_as_one_number():
    samples = [1000, 2000, 3000]
    content = [byte for sample in samples for byte in sample.to_bytes(2, "big")]
    found, _ = look(torch.tensor([[MARKERS["audio"], 0, 31, 64, 1, 2, *content]]), None)
    assert found.role[0, 5:].tolist() == [HIGH, LOW, HIGH, LOW, HIGH, LOW, HIGH]
    assert found.values[0, 9, :2].tolist() == [2000 / 256, 1000 / 256]
    assert found.values[0, 10, :2].tolist() == [2000 - 256 * (3000 >> 8), 1000 - 256 * (3000 >> 8)]


def test_what_is_carried_is_bounded_and_a_longer_row_has_none_above():
    wide, most = LONGEST // 3 + 1, LONGEST // 3
    for width, above in ((most, True), (wide, False)):
        pixels = torch.randint(BYTES, (3 * width * 2,)).tolist()
        symbols = [MARKERS["image"], *width.to_bytes(2, "big"), 0, 2, 3, *pixels]
        found, carried = read(symbols, list(range(0, len(symbols), 1000)))
        assert carried is not None and carried.shape == (1, CARRIED)
        at = 5 + 3 * width + 30
        assert found.role[0, at] == RED and found.values[0, at, 0] == pixels[3 * width + 27]
        assert (found.values[0, at, 1] == pixels[30]) == above or pixels[30] == pixels[3 * width + 27]


def test_a_place_is_known_after_any_length():
    symbols = [MARKERS["audio"], 0, 31, 64, 1, 1, *[7] * 300]
    _, carried = read(symbols, list(range(0, 300, 50)))
    assert carried is not None and carried[0, 1] < 100, "what counts the bytes does not grow"
    again, _ = look(torch.tensor([[9, 7]]), carried)
    assert again.role[0].tolist() == [SOUND, SOUND] and again.values[0, 1, :3].tolist() == [7, 9, 7]
    rows = [MARKERS["image"], 0, 1, 1, 44, 1, *[5] * 300]
    found, _ = read(rows, list(range(0, 300, 37)))
    assert found.role[0, 5:].tolist() == [GREY] * 300 + [END]
