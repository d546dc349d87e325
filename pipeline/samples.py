"""What the model writes when it is given the beginning of the test split, as text for people."""

from pathlib import Path

from h2q.generate import generate
from h2q.model import ByteModel

PROMPT_BYTES = 64
SAMPLE_BYTES = 200


def write_sample(folder: Path, step: int, model: ByteModel, prompt: bytes) -> str:
    """Write and return the prompt and 200 bytes that follow it (temperature 0.8, a fixed seed)."""
    written = generate(model, prompt, SAMPLE_BYTES, temperature=0.8, seed=0)
    folder.mkdir(exist_ok=True)
    # Replaced, not escaped: half a character at a cut is normal, and the file is for reading.
    text = (prompt + written).decode("utf-8", errors="replace")
    (folder / f"step-{step:09d}.txt").write_text(text, encoding="utf-8")
    return text
