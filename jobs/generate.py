"""Let a trained model write: `python jobs/generate.py RUN --prompt TEXT`, or `--kind image --out picture.png`."""

import codecs
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from h2q.alphabet import MARKERS, Kind
from h2q.config import SamplingConfig
from h2q.errors import UserError, require
from pipeline.cli import parse, run
from pipeline.senses.media import Media
from pipeline.shown import marked_off, printable
from pipeline.threads import wait_asleep_where_busy

if TYPE_CHECKING:  # They load torch.
    from h2q.generate import Memory
    from h2q.model import ByteModel
    from pipeline.config import CorpusConfig, RunConfig
    from pipeline.runs.folder import RunFolder
    from pipeline.senses.sounds import Coding

PROG = "python jobs/generate.py"
SUFFIXES: dict[Media, tuple[str, ...]] = {"image": (".png",), "audio": (".wav", ".flac")}
"""Of the files that are written, by kind."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingConfig):
    """Write what a trained model thinks comes after a prompt, byte by byte as they are drawn."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = "latest"
    """The run: its name or folder, an MLflow run id, a registered model, `latest` or `best`."""
    prompt: str | None = None
    """What the model continues; - reads it from standard input, whose bytes may be any; of a picture or a sound the
    file of its beginning. None: a line end, or the byte 0 where no text is written; of documents with markers their
    marker."""
    kind: Kind | None = None
    """What to write, of what the run was trained on: `image` completes a picture from the rows of the prompt, `audio` a
    sound. None: text if it was among it."""
    out: str | None = None
    """The file of the picture (.png) or of the sound (.wav, .flac); one that is there is replaced."""
    height: int | None = None
    """Rows of the whole picture. None: twice the prompt's."""
    length: int | None = None
    """Bytes to write at most. None: 400; of a picture what it lacks, of a sound as many as the prompt has, and without
    one 2 seconds."""
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
        require(self.length is None or self.length >= 0, f"length must be at least 0 bytes, got {self.length}")
        require(self.stop != "", "stop must hold at least one byte")


def main(args: Sequence[str]) -> int:
    options = parse(GenerateOptions, args, default=GenerateOptions(), prog=PROG)
    from pipeline.runs.load import run_config
    from pipeline.tracking.find import find_run

    folder = find_run(options.run, storage=options.storage)
    config = run_config(folder)
    kind = kind_to_write(options, config.corpus, folder.name)
    wait_asleep_where_busy()
    if kind == "image" or kind == "audio":
        check_seen(options, kind)
        return write_seen(options, kind, config.corpus.samples, folder)
    require(
        options.out is None and options.height is None,
        f"out and height are for pictures and sounds, and {kind} goes to standard output: leave them out",
    )
    return write_text(options, kind, config, folder)


def kind_to_write(options: GenerateOptions, corpus: "CorpusConfig", run: str) -> Kind:
    """Raises: UserError for a kind that the run was not trained on."""
    kinds: list[Kind] = [part.kind for part in corpus.parts] or [corpus.kind]
    kind = options.kind or ("text" if "text" in kinds else kinds[0])
    require(kind in kinds, f"{run} was trained on {' and '.join(kinds)}, not on {kind}: give another --kind or run")
    return kind


def write_text(options: GenerateOptions, kind: Kind, config: "RunConfig", folder: "RunFolder") -> int:
    """Text, or bytes, to standard output."""
    text, marked = kind == "text" and not options.bytes, config.corpus.marked
    prompt = read_prompt(options, text=text, vocab=config.model.vocab, marked=marked)
    from h2q.documents import continued
    from h2q.generate import stream
    from pipeline.runs.load import load_model
    from pipeline.runs.saved_state import write_state

    model, _ = load_model(folder)
    memory = open_memory(options, model)
    stop = None if options.stop is None else os.fsencode(options.stop)
    if options.prompt is None and prompt:
        behind = "a line end" if prompt == b"\n" else f"the byte {prompt[0]}"
        print(f"{folder.name} writes behind {behind}; --prompt TEXT gives it another start", file=sys.stderr)
    length, written, began = 400 if options.length is None else options.length, 0, time.perf_counter()
    try:
        if marked:
            document = [*prompt] if options.from_state else [MARKERS[kind], *prompt]
            drawn = continued(model, document, length, options, stop=stop, memory=memory)
        else:
            drawn = stream(model, prompt, length, options, stop=stop, memory=memory)
        if text:
            show_prompt("" if options.prompt is None else prompt.decode(errors="replace"))
            written = show_text(drawn)
        else:
            written = (show_bytes if options.bytes or not sys.stdout.isatty() else show_numbers)(drawn)
    except KeyboardInterrupt:
        print(flush=True)
        return 130
    if marked and written < length and stop is None:
        print(f"{folder.name} ended the document after {written} bytes", file=sys.stderr)
    if memory and options.save_state:
        write_state(options.save_state, memory.saved())
    if sys.stderr.isatty():
        print(f"{written / (time.perf_counter() - began):,.0f} bytes/s", file=sys.stderr)
    return 0


def check_seen(options: GenerateOptions, kind: Media) -> None:
    """Raises: UserError for options that do not go with a picture or a sound."""
    suffixes = SUFFIXES[kind]
    require(
        options.out is not None and options.out.lower().endswith(suffixes),
        f"a file of kind {kind} must end in {' or '.join(suffixes)}, got {options.out}: give --out FILE{suffixes[0]}",
    )
    require(
        options.height is None or (kind == "image" and options.prompt is not None),
        f"height is of a picture whose first rows are the prompt, got {options.height}: give --prompt FILE",
    )
    given = [name for name in ("stop", "bytes", "save_state", "from_state") if getattr(options, name)]
    require(not given, f"{' and '.join(given)} is for text, not for kind {kind}: leave it out".replace("_", "-"))


def write_seen(options: GenerateOptions, kind: Media, coding: "Coding", folder: "RunFolder") -> int:
    """A picture or a sound, completed or new, into a file, which can be opened whatever the model writes."""
    from rich.progress import track

    from pipeline.runs.load import load_model
    from pipeline.runs.saved_state import check_target
    from pipeline.senses.completion import completed, missing
    from pipeline.senses.written import written_file
    from pipeline.storage.uri import write_atomic
    from pipeline.terminal import new_console

    assert options.out is not None
    check_target(options.out, "out")
    document, written, ended = begin(options, kind, coding), [], ""
    model, _ = load_model(folder)
    drawn = completed(model, document, options, options.length)
    total = missing(document) if options.length is None else options.length
    terminal, quiet = new_console(stderr=True), not sys.stderr.isatty()
    try:
        for byte in track(drawn, "writing", total, console=terminal, transient=True, disable=quiet):
            written.append(byte)
    except KeyboardInterrupt:
        ended = "; interrupted"
    code, wanted = 130 if ended else 0, missing(document)
    if len(written) == options.length and (wanted is None or wanted > len(written)):
        ended = ", where --length ended it"
    data, told = written_file(kind, [*document[1:], *written], _format(options))
    write_atomic(Path(options.out), data)
    print(printable(f"{options.out}: {told}; {len(written):,} bytes by {folder.name}{ended}"))
    return code


def _format(options: GenerateOptions) -> str:
    return os.path.splitext(options.out or "")[1][1:].lower()


def begin(options: GenerateOptions, kind: Media, coding: "Coding") -> list[int]:
    """The symbols of the prompt's picture or sound; of none its marker. Raises: UserError for a file that is none."""
    from pipeline.senses.completion import begun_picture, begun_sound
    from pipeline.senses.pictures import read_picture
    from pipeline.senses.sounds import read_sound, takes

    if options.prompt is None:
        return [MARKERS[kind]]
    name = "standard input" if options.prompt == "-" else printable(options.prompt)
    try:
        with sys.stdin.buffer if options.prompt == "-" else open(options.prompt, "rb") as file:
            if kind == "image":
                return begun_picture(read_picture(file, name), options.height)
            sound = read_sound(file, name)
            rate, channels, format = sound.rate, sound.samples.shape[1], _format(options)
            require(
                takes(format, rate, channels),
                f"a {format} file cannot hold {channels} channels of {rate:,} samples a second, as {name} has: give "
                "--out FILE.wav",
            )
            return begun_sound(sound, coding)
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}; give --prompt the file of a beginning") from error


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


def read_prompt(options: GenerateOptions, *, text: bool, vocab: int, marked: bool = False) -> bytes:
    """The prompt as bytes; where none was given, a line end, or the byte 0 where no text is written, and none behind a
    state or where a marker begins the document.

    Raises: UserError if it is empty, or, of `text`, given on the command line and not UTF-8.
    """
    if options.prompt is None and (marked or options.from_state is not None):
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
