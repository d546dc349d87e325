"""How far an evaluation is: one live line where the output is a terminal, plain lines where it is not."""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console

from pipeline.prepare.prepare import Event
from pipeline.training.progress import PLAIN_SECONDS, human_bytes, human_seconds, live_line


class Meter:
    """Shows the stage, then bytes done, rate and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = live_line(console)
        self._task = self._bar.add_task("", total=1.0, status="")
        self._first: tuple[float, int] | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """What is being done."""
        self._first = None
        self._bar.update(self._task, description=text, status="", completed=0)

    def preparing(self, event: Event) -> None:
        """What preparing the corpus tells, unless all is there already."""
        if event.kind == "note" and "already prepared" not in event.text:
            self._console.print(event.text, markup=False, highlight=False, soft_wrap=True)
        elif event.total:
            self._update(event.done / event.total, f"{human_bytes(event.done)} of {human_bytes(event.total)}")

    def show(self, done: int, total: int, bpb: Callable[[], float]) -> None:
        """Bytes done, and bits per byte so far, asked for only when it is shown."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done  # The first batch bears the start of the workers.
            self._said = now
        elapsed = now - self._first[0]
        plain = now - self._said >= PLAIN_SECONDS and not self._console.is_terminal
        if elapsed < 1 or not (plain or self._console.is_terminal):
            return
        rate = (done - self._first[1]) / elapsed
        left = f"{human_bytes(rate)}/s  ETA {human_seconds((total - done) / rate)}" if rate else ""
        status = f"{human_bytes(done)} of {human_bytes(total)}  {bpb():.3f} bpb  {left}"
        self._update(done / total, status)
        if plain:
            self._said = now
            self._console.print(status, markup=False, highlight=False, soft_wrap=True)

    def _update(self, share: float, status: str) -> None:
        self._bar.update(self._task, completed=share, status=status)
