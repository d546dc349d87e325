"""What the model writes when it is given the beginning of a split: text for people, a file like those it read, and of
pictures and sounds completions beside the originals."""

import codecs
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np

from h2q.alphabet import BYTES, MARKERS, Kind
from h2q.config import SamplingConfig
from h2q.documents import continued
from h2q.generate import stream
from h2q.model import ByteModel
from pipeline.corpus.mixed import AnySplit, MixedSplit
from pipeline.corpus.split import Split
from pipeline.runs.folder import PROMPT_BYTES, SAMPLE_BYTES
from pipeline.senses.samples import Writer, contact_sheet, sound_and_spectrogram
from pipeline.shown import marked_off

SAMPLING = SamplingConfig(temperature=0.8, seed=0)
PICTURES = 8
"""Small pictures on a sheet."""
SMALL = 256
"""Bytes of a picture that is small: half of eight are written in a few seconds."""
MORE = 6
"""At the end of training so many times as much is written of a sound, and one larger picture is on the sheet."""


def write_sample(
    folder: Path,
    step: int,
    model: ByteModel,
    split: AnySplit,
    kind: Kind = "text",
    stopped: Callable[[], bool] = lambda: False,
    last: bool = False,
) -> bool:
    """Write what the model makes of the split, at temperature 0.8, always by the same seed, a file for each kind:

        step-….txt   of text its first 64 bytes, up to a whole character and between marks, and 200 of the model's
        step-….wav   of bytes the same as a file as it is, named like the first of the split
        step-….png   of pictures a contact sheet of completions, the originals above; of sounds -spectrogram.png
        step-….wav   of sounds the first, completed behind its beginning

    `last`: of pictures and sounds more. Whether all was written: no longer once `stopped` says so.
    """
    mixed = isinstance(split, MixedSplit)
    parts: list[tuple[Kind, Split]] = [(of, part) for of, _, part in split.parts] if mixed else [(kind, split)]
    write = Writer(model, SAMPLING, SAMPLE_BYTES * (MORE if last else 1), stopped)
    for of, part in parts:
        if of == "image":
            files = {".png": contact_sheet(_pictures(part, larger=last), write)}
        elif of == "audio":
            wav, spectrogram = sound_and_spectrogram(next(part.contents()), write)
            files = {".wav": wav, "-spectrogram.png": spectrogram}
        else:
            files = _read(model, part, of, stopped)
        if stopped():
            return False
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / f"step-{step:09d}{name}").write_bytes(data)
    return True


def _read(model: ByteModel, split: Split, kind: Kind, stopped: Callable[[], bool]) -> dict[str, bytes]:
    """Text, or bytes, behind the split's first, and the end of their file's name."""
    symbols = split.read(0, min(PROMPT_BYTES, len(split)))
    if split.alphabet > BYTES:
        first = symbols[1 : 1 + int(np.argmax(np.append(symbols[1:], BYTES) >= BYTES))]
        prompt = first.astype(np.uint8).tobytes()
    else:
        prompt = symbols.tobytes()
    prompt = whole_characters(prompt) if kind == "text" else prompt
    if split.alphabet > BYTES:
        drawn = continued(model, [MARKERS[kind], *prompt], SAMPLE_BYTES, SAMPLING)
    else:
        drawn = stream(model, prompt, SAMPLE_BYTES, SAMPLING)
    written = bytes(takewhile(lambda _: not stopped(), drawn))
    if kind != "text":
        return {PurePosixPath(split.first_input).suffix or ".bin": prompt + written}
    # Replaced, not escaped: half a character at the end is normal, and the file is for reading.
    shown, rest = (part.decode("utf-8", errors="replace") for part in (prompt, written))
    return {".txt": (marked_off(shown) + rest).encode()}


def _pictures(split: Split, *, larger: bool) -> list[bytes]:
    """Small pictures from all over the split; where there are none, or one `larger` is wanted, one."""
    sizes = np.diff([*split.document_starts(), len(split)])
    small, large = np.flatnonzero(sizes <= SMALL), np.flatnonzero(sizes > SMALL)
    chosen = small[np.linspace(0, len(small) - 1, min(PICTURES, len(small))).astype(int)].tolist()
    if len(large) and (larger or not chosen):
        chosen.append(int(large[np.argmin(sizes[large])]))
    return list(split.contents(chosen))


def whole_characters(data: bytes) -> bytes:
    """The bytes without a character of UTF-8 that is cut short at their end, as long as something is left."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data)
    return data[: len(data) - len(decoder.getstate()[0])] or data
