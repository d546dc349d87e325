"""Ctrl-C and SIGTERM: a file in the run's folder, which the first worker looks for, wherever it runs."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from h2q.errors import UserError
from pipeline.storage.repeated import repeated

_NAME = "stop"
_SECONDS = 0.5
"""Between two looks at the file: soon enough, and 2 requests a second where it lies on an object store."""


class Stopping:
    """The signal that asked for the stop, None so far."""

    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def stoppable(folder: Path) -> Iterator[Stopping]:
    """Inside, the first SIGINT or SIGTERM asks the workers to save and stop; a second one ends this process at once."""
    stopping = Stopping()
    forget_stop(folder)

    def handle(number: int, _: FrameType | None) -> None:
        if stopping.signal is not None:
            raise KeyboardInterrupt
        stopping.signal = number
        # In a thread: an object store may take its time, and the loop may be running in this one.
        threading.Thread(target=request_stop, args=(folder,), daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        yield stopping  # a thread other than the main one handles no signals
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        with suppress(UserError):  # a store that is away: the next start removes it
            forget_stop(folder)


def request_stop(folder: Path) -> None:
    """Ask the run in this folder to save and stop."""
    (folder / _NAME).touch()


def forget_stop(folder: Path) -> None:
    """Take back what `request_stop` asked."""
    (folder / _NAME).unlink(missing_ok=True)


def stop_wanted(folder: Path) -> bool:
    """Whether somebody has asked it."""
    return (folder / _NAME).exists()


@dataclass
class StopSignal:
    """Whether somebody has asked a run to stop."""

    wanted: bool = False

    def is_wanted(self) -> bool:
        return self.wanted


@contextmanager
def stop_signal(folder: Path) -> Iterator[StopSignal]:
    """Looks for the file in a thread of its own: the loop asks at every step, and must not wait for a disk or a store.

    Every worker looks for itself: during an evaluation they exchange nothing.
    """
    found = StopSignal()

    def look() -> None:
        with suppress(UserError, OSError):  # a store that is away: asked again
            found.wanted = found.wanted or stop_wanted(folder)

    with repeated(look, _SECONDS, "stop"):
        yield found


def interruptible(work: Callable[[], Any]) -> Any:
    """Do the work in a thread and wait for it here, where signals arrive: else Ray would take Ctrl-C for itself."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
