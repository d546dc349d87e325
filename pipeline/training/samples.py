"""What the model writes when it is given the beginning of a split, as text for people."""

from pathlib import Path

from h2q.generate import generate
from h2q.model import ByteModel
from pipeline.corpus.corpus import Split

PROMPT_BYTES = 64
SAMPLE_BYTES = 200


def write_sample(folder: Path, step: int, model: ByteModel, split: Split) -> None:
    """Write step-….txt: the split's first 64 bytes, then 200 of the model's (temperature 0.8, always the same seed)."""
    prompt = split.read(0, min(PROMPT_BYTES, len(split))).tobytes()
    written = generate(model, prompt, SAMPLE_BYTES, temperature=0.8, seed=0)
    folder.mkdir(exist_ok=True)
    # Replaced, not escaped: half a character at a cut is normal, and the file is for reading.
    text = (prompt + written).decode("utf-8", errors="replace")
    (folder / f"step-{step:09d}.txt").write_text(text, encoding="utf-8")
