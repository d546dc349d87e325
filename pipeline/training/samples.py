"""What the model writes when it is given the beginning of a split: text for people, or a file like those it read."""

from collections.abc import Callable
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from h2q.config import SamplingConfig
from h2q.generate import stream
from h2q.model import ByteModel
from pipeline.corpus.corpus import Split

PROMPT_BYTES = 64
SAMPLE_BYTES = 200


def write_sample(
    folder: Path,
    step: int,
    model: ByteModel,
    split: Split,
    kind: Literal["text", "bytes"] = "text",
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Write step-….txt: the split's first 64 bytes, then 200 of the model's (temperature 0.8, always the same seed).

    Of a corpus of bytes, a file as it is, named like the first of the split: step-….wav, say.
    Whether it was written: no longer once `stopped` says so.
    """
    prompt = split.read(0, min(PROMPT_BYTES, len(split))).tobytes()
    drawn = stream(model, prompt, SAMPLE_BYTES, SamplingConfig(temperature=0.8, seed=0))
    written = bytes(takewhile(lambda _: not stopped(), drawn))
    if stopped():
        return False
    folder.mkdir(exist_ok=True)
    if kind == "bytes":
        suffix = PurePosixPath(split.first_input).suffix or ".bin"
        (folder / f"step-{step:09d}{suffix}").write_bytes(prompt + written)
        return True
    # Replaced, not escaped: half a character at a cut is normal, and the file is for reading.
    text = (prompt + written).decode("utf-8", errors="replace")
    (folder / f"step-{step:09d}.txt").write_text(text, encoding="utf-8")
    return True
