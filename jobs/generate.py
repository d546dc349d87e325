"""Let a trained model write: `python jobs/generate.py RUN --prompt TEXT`."""

import codecs
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from h2q.config import SamplingConfig
from h2q.errors import UserError, require
from pipeline.cli import parse, run
from pipeline.shown import printable

PROG = "python jobs/generate.py"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingConfig):
    """Write what a trained model thinks comes after a prompt, byte by byte as they are drawn."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ""
    """The run: its name or folder, an MLflow run id, a registered model, `latest` or `best`."""
    prompt: str = ""
    """What the model continues; - reads it from standard input, whose bytes may be any."""
    length: int = 400
    """Bytes to write at most."""
    stop: str | None = None
    """End behind the first occurrence of this text among the new bytes."""
    bytes: bool = False
    """Write the bytes as they are. Otherwise text: what is not UTF-8, and control characters, as U+FFFD."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.length >= 0, f"length must be at least 0 bytes, got {self.length}")
        require(self.stop != "", "stop must hold at least one byte")


def main(args: Sequence[str]) -> int:
    options = parse(GenerateOptions, args, default=GenerateOptions(), prog=PROG)
    require(options.run != "", f"name a run: {PROG} RUN --prompt TEXT, with RUN a name, a folder, latest or best")
    prompt = read_prompt(options)
    from h2q.generate import stream
    from pipeline.runs.load import load_model
    from pipeline.tracking.find import find_run

    model, _ = load_model(find_run(options.run, storage=options.storage))
    stop = None if options.stop is None else os.fsencode(options.stop)
    written, began = 0, time.perf_counter()
    show = show_bytes if options.bytes else show_text
    try:
        written = show(stream(model, prompt, options.length, options, stop=stop))
    except KeyboardInterrupt:
        print(flush=True)
        return 130
    if sys.stderr.isatty():
        print(f"{written / (time.perf_counter() - began):,.0f} bytes/s", file=sys.stderr)
    return 0


def read_prompt(options: GenerateOptions) -> bytes:
    """The prompt as bytes.

    Raises: UserError if it is empty, or given on the command line as text that is not UTF-8.
    """
    if options.prompt == "-":
        prompt = sys.stdin.buffer.read()
        require(len(prompt) > 0, "the prompt is empty: standard input held no byte")
        return prompt
    prompt = os.fsencode(options.prompt)
    require(len(prompt) > 0, "the prompt is empty: give --prompt TEXT, or --prompt - to read standard input")
    if not options.bytes:
        try:
            prompt.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"the prompt is not valid UTF-8: byte 0x{prompt[error.start]:02x} at offset {error.start}; give such "
                "bytes on standard input, with --prompt -, or add --bytes"
            ) from None
    return prompt


def show_bytes(drawn: Iterator[int]) -> int:
    """Write bytes as they are; how many."""
    count = 0
    for byte in drawn:
        count += 1
        sys.stdout.buffer.write(bytes((byte,)))
        sys.stdout.buffer.flush()
    return count


def show_text(drawn: Iterator[int]) -> int:
    """Write bytes as text that is safe on a terminal, a character as soon as it is whole; how many bytes."""
    decoder, count = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0
    for byte in drawn:
        count += 1
        if text := decoder.decode(bytes((byte,))):
            print(printable(text), end="", flush=True)
    print(printable(decoder.decode(b"", final=True)), flush=True)
    return count


if __name__ == "__main__":
    run(main)
