"""Ctrl-C and SIGTERM: a file in the run's folder, which the workers look for between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_NAME = "stop"


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
    (folder / _NAME).unlink(missing_ok=True)

    def handle(number: int, _: FrameType | None) -> None:
        if stopping.signal is not None:
            raise KeyboardInterrupt
        stopping.signal = number
        (folder / _NAME).touch()

    if threading.current_thread() is not threading.main_thread():
        yield stopping  # signals are not ours to handle
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        (folder / _NAME).unlink(missing_ok=True)


def stop_wanted(folder: Path) -> bool:
    """Whether somebody has asked the run in this folder to stop."""
    return (folder / _NAME).exists()


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
