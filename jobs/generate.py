"""Let a trained model write: `python jobs/generate.py RUN --prompt TEXT`."""

import codecs
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from h2q.config import SamplingConfig
from h2q.errors import UserError, require
from pipeline.cli import parse, run
from pipeline.shown import marked_off, printable

if TYPE_CHECKING:  # They load torch.
    from h2q.generate import Memory
    from h2q.model import ByteModel

PROG = "python jobs/generate.py"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingConfig):
    """Write what a trained model thinks comes after a prompt, byte by byte as they are drawn."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = "latest"
    """The run: its name or folder, an MLflow run id, a registered model, `latest` or `best`."""
    prompt: str | None = None
    """What the model continues; - reads it from standard input, whose bytes may be any. None: a line end, or the byte 0
    where no text is written."""
    length: int = 400
    """Bytes to write at most."""
    stop: str | None = None
    """End behind the first occurrence of this text among the new bytes."""
    bytes: bool = False
    """Write the new bytes as they are, as a run on a corpus of bytes does to a file anyway. Otherwise text, behind the
    prompt: what is not UTF-8, and control characters, as U+FFFD."""
    save_state: str | None = None
    """Of a model with a state: the file that gets all it knows at the end; a file that is there is replaced."""
    from_state: str | None = None
    """Of a model with a state: the file of an earlier --save-state, behind whose text it goes on, with the prompt if
    one is given, as if it had not stopped. With another --seed than 0 it draws anew from there."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.length >= 0, f"length must be at least 0 bytes, got {self.length}")
        require(self.stop != "", "stop must hold at least one byte")


def main(args: Sequence[str]) -> int:
    options = parse(GenerateOptions, args, default=GenerateOptions(), prog=PROG)
    from pipeline.runs.load import run_config
    from pipeline.tracking.find import find_run

    folder = find_run(options.run, storage=options.storage)
    config = run_config(folder)
    text = config.corpus.kind == "text" and not options.bytes
    prompt = read_prompt(options, text=text, vocab=config.model.vocab)
    from h2q.generate import stream
    from pipeline.runs.load import load_model
    from pipeline.runs.saved_state import write_state

    model, _ = load_model(folder)
    memory = open_memory(options, model)
    stop = None if options.stop is None else os.fsencode(options.stop)
    if options.prompt is None and prompt:
        behind = "a line end" if prompt == b"\n" else f"the byte {prompt[0]}"
        print(f"{folder.name} writes behind {behind}; --prompt TEXT gives it another start", file=sys.stderr)
    written, began = 0, time.perf_counter()
    try:
        drawn = stream(model, prompt, options.length, options, stop=stop, memory=memory)
        if text:
            show_prompt("" if options.prompt is None else prompt.decode(errors="replace"))
            written = show_text(drawn)
        else:
            written = (show_bytes if options.bytes or not sys.stdout.isatty() else show_numbers)(drawn)
    except KeyboardInterrupt:
        print(flush=True)
        return 130
    if memory and options.save_state:
        write_state(options.save_state, memory.saved())
    if sys.stderr.isatty():
        print(f"{written / (time.perf_counter() - began):,.0f} bytes/s", file=sys.stderr)
    return 0


def open_memory(options: GenerateOptions, model: "ByteModel") -> "Memory | None":
    """What the model goes on from, where it is to be saved or was; None elsewhere. Raises: UserError if it cannot."""
    from h2q.generate import Memory
    from pipeline.runs.saved_state import check_target, read_state

    if options.save_state is None and options.from_state is None:
        return None
    memory = Memory(model, options.seed)
    if options.save_state is not None:
        check_target(options.save_state)
    if options.from_state is not None:
        memory.resume(read_state(options.from_state), options.seed)
    return memory


def read_prompt(options: GenerateOptions, *, text: bool, vocab: int) -> bytes:
    """The prompt as bytes; where none was given, a line end, or the byte 0 where no text is written, and none behind a
    state.

    Raises: UserError if it is empty, or, of `text`, given on the command line and not UTF-8.
    """
    if options.prompt is None and options.from_state is not None:
        return b""
    if options.prompt is None:
        return b"\n" if text and vocab > ord("\n") else b"\0"
    if options.prompt == "-":
        prompt = sys.stdin.buffer.read()
        require(len(prompt) > 0, "the prompt is empty: standard input held no byte")
        return prompt
    prompt = os.fsencode(options.prompt)
    require(len(prompt) > 0, "the prompt is empty: give --prompt TEXT, or --prompt - to read standard input")
    if text:
        try:
            prompt.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"the prompt is not valid UTF-8: byte 0x{prompt[error.start]:02x} at offset {error.start}; give such "
                "bytes on standard input, with --prompt -, or add --bytes"
            ) from None
    return prompt


def show_prompt(prompt: str) -> None:
    """Write a prompt so that it is told from what the model writes: dim on a terminal, elsewhere between marks."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    if prompt:
        print(marked_off(printable(prompt)) if plain else f"\x1b[2m{printable(prompt)}\x1b[0m", end="", flush=True)


def show_bytes(drawn: Iterator[int]) -> int:
    """Write bytes as they are; how many."""
    count = 0
    for byte in drawn:
        count += 1
        sys.stdout.buffer.write(bytes((byte,)))
        sys.stdout.buffer.flush()
    return count


def show_numbers(drawn: Iterator[int]) -> int:
    """Write bytes in hexadecimal, 16 to a line: for a terminal, where they are no text; how many."""
    count = 0
    for byte in drawn:
        count += 1
        print(f"{byte:02x}", end=" " if count % 16 else "\n", flush=True)
    print(flush=True)
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
