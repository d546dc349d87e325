"""What the model writes when it is given the beginning of a split: text for people, or a file like those it read."""

import codecs
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path, PurePosixPath

from h2q.alphabet import BYTES, Kind
from h2q.config import SamplingConfig
from h2q.generate import stream
from h2q.model import ByteModel
from pipeline.corpus.mixed import AnySplit
from pipeline.runs.folder import PROMPT_BYTES, SAMPLE_BYTES
from pipeline.shown import marked_off


def write_sample(
    folder: Path,
    step: int,
    model: ByteModel,
    split: AnySplit,
    kind: Kind = "text",
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Write the split's first 64 bytes and 200 of the model's (temperature 0.8, always the same seed): as step-….txt,
    the prompt, which ends with a whole character, between marks; of a corpus of bytes a file as it is, named like the
    first of the split: step-….wav, say.

    Of a corpus with markers, nothing. Whether it was written: no longer once `stopped` says so.
    """
    if split.alphabet > BYTES:
        return True
    prompt = split.read(0, min(PROMPT_BYTES, len(split))).tobytes()
    prompt = whole_characters(prompt) if kind == "text" else prompt
    drawn = stream(model, prompt, SAMPLE_BYTES, SamplingConfig(temperature=0.8, seed=0))
    written = bytes(takewhile(lambda _: not stopped(), drawn))
    if stopped():
        return False
    folder.mkdir(exist_ok=True)
    if kind != "text":
        suffix = PurePosixPath(split.first_input).suffix or ".bin"
        (folder / f"step-{step:09d}{suffix}").write_bytes(prompt + written)
        return True
    # Replaced, not escaped: half a character at the end is normal, and the file is for reading.
    shown, rest = (part.decode("utf-8", errors="replace") for part in (prompt, written))
    (folder / f"step-{step:09d}.txt").write_text(marked_off(shown) + rest, encoding="utf-8")
    return True


def whole_characters(data: bytes) -> bytes:
    """The bytes without a character of UTF-8 that is cut short at their end, as long as something is left."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data)
    return data[: len(data) - len(decoder.getstate()[0])] or data
