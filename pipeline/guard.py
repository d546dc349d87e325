"""The one way out of every job: whatever happens, one line and an exit code, and no traceback on a user's screen."""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from h2q.errors import Terminated, UserError, first_line
from pipeline.shown import presentable
from pipeline.suggestions import UnknownOptions

_OF_A_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
)  # fmt: skip
"""Errors that say something of a file or folder, and nothing of the program."""
_SHOWN = 300
"""Characters of a path that are shown."""


def guarded(main: Callable[[Sequence[str]], int | None]) -> int:
    """Call main(arguments); the exit code. What ended it before is one line on standard error.

    2: a mistake that the user can mend (UserError), or a file or folder that cannot be used as it is. 130: Ctrl-C.
    143: SIGTERM. 1: standard output cannot be written to, or anything else, of which a file holds the traceback. 0:
    also where the reader of the output has left (`| head`).
    """
    _open_streams()
    code, said, lines = 0, "", False
    try:
        try:
            code = main(sys.argv[1:]) or 0
        except SystemExit as stop:  # of --help
            code = stop.code if isinstance(stop.code, int) else 0
        sys.stdout.flush()
    except UserError as error:
        code, said, lines = 2, str(error), isinstance(error, UnknownOptions)
    except KeyboardInterrupt:
        code, said = 130, "interrupted"
    except Terminated:
        code, said = 143, "terminated"
    except Exception as error:
        problem = _problem_of_output(error)
        if isinstance(problem, BrokenPipeError):
            code = 0
        elif problem is not None:
            code, said = 1, f"cannot write to standard output: {problem.strerror}"
        elif isinstance(error, OSError) and error.filename is not None and error.errno in _OF_A_PLACE:
            name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else repr(error.filename)
            name = name if len(name) <= _SHOWN else f"{name[: _SHOWN // 2]}…{name[-_SHOWN // 2 :]}"
            code, said = 2, f"cannot use {name}: {error.strerror}; name another place, or mend this one"
        else:
            code, said = 1, f"{type(error).__name__}: {first_line(error)} ({_kept(error)})"
    if said:
        with suppress(OSError):
            said = presentable(said) if lines else " ".join(presentable(said).splitlines())
            print("error:", said, file=sys.stderr, flush=True)
    return code


def _open_streams() -> None:
    """Output that a terminal's encoding lacks becomes ? and a stream that was closed is one that nobody reads, or that
    holds nothing."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _problem_of_output(error: Exception) -> OSError | None:
    """Why standard output cannot be written to, if that is what the error may be of; nothing more is written there."""
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    try:
        print(flush=True)  # once more: what could not be written is not kept
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return problem
    return None


def _kept(error: Exception) -> str:
    """Where the traceback is kept."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="h2q-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(presentable("".join(traceback.format_exception(error))))
        return f"a fault of the program, all of it in {file.name}"
    except OSError as refusal:
        return f"a fault of the program; its traceback cannot be kept: {refusal.strerror}"
