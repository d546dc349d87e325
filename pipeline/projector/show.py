"""A file read with a projector: one moment on the terminal, or a page of many."""

from pathlib import Path

from rich.console import Console

from h2q.errors import UserError, require
from pipeline.evaluation.file_stream import RawFile
from pipeline.projector.begin import find_projector
from pipeline.projector.config import ProjectionConfig, check_offset
from pipeline.runs.folder import RunFolder
from pipeline.shown import printable


def show(options: ProjectionConfig, core: RunFolder, console: Console) -> None:
    """Read the file as the options say. Raises: UserError as `load_projector` and `RawFile` do, and for an offset that
    is not in the file."""
    assert options.read is not None
    data = RawFile(options.read, option="--read")
    name = str(options.training_run.name)
    first = options.at
    if first is None:
        first = max(1, len(data) // 2) if options.html is None else 1
    check_offset(len(data), first)
    if options.html is not None:
        _check_page(Path(options.html).absolute())
    find_projector(core, name)
    # torch takes seconds to load: a mistake is told before.
    from pipeline.projector.load import load_projector
    from pipeline.projector.page import write_page
    from pipeline.projector.reading import read_along, read_at

    model, reader, _, _ = load_projector(core, name)
    if options.html is None:
        reading = read_at(reader, model, data, first)
        shown = reading.coloured() if console.is_terminal else reading.plain()
        console.print(shown, soft_wrap=True, markup=False, end="")
        return
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


def _check_page(page: Path) -> None:
    require(page.parent.is_dir(), f"cannot write {page}: there is no such folder; make it, or name another with --html")
    require(not page.is_dir(), f"cannot write {page}: it is a folder; name a file with --html")
