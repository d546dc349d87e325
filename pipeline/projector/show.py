"""A file read with a projector: one moment on the terminal, or a page of many."""

from pathlib import Path

from rich.console import Console

from h2q.errors import UserError
from pipeline.evaluation.file_stream import RawFile
from pipeline.projector.config import ProjectionConfig
from pipeline.projector.load import load_projector
from pipeline.projector.page import write_page
from pipeline.projector.reading import check_offset, read_along, read_at
from pipeline.runs.folder import RunFolder
from pipeline.shown import printable


def show(options: ProjectionConfig, core: RunFolder, console: Console) -> None:
    """Read the file as the options say. Raises: UserError as `load_projector` and `RawFile` do, and for an offset that
    is not in the file."""
    assert options.read is not None
    data = RawFile(options.read, option="--read")
    name = str(options.training_run.name)
    model, reader, _, _ = load_projector(core, name)
    if options.html is None:
        reading = read_at(reader, model, data, max(1, len(data) // 2) if options.at is None else options.at)
        shown = reading.coloured() if console.is_terminal else reading.plain()
        console.print(shown, soft_wrap=True, markup=False, end="")
        return
    first = 1 if options.at is None else options.at
    check_offset(model, len(data), first)
    count = min(options.moments, len(data) - first + 1)
    offsets = [first + number * (len(data) - first) // max(1, count - 1) for number in range(count)]
    try:
        write_page(
            Path(options.html),
            list(read_along(reader, model, data, offsets)),
            f"{data.name}, read by {name} of {core.name}",
        )
    except OSError as error:
        raise UserError(f"cannot write {options.html}: {error.strerror}; name another file with --html") from error
    console.print(f"{count} moments in {printable(options.html)}: open it in a browser", soft_wrap=True, markup=False)
