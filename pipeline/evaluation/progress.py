"""How far an evaluation is: one live line where the output is a terminal, plain lines where it is not."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.events import Event
from pipeline.terminal import PLAIN_SECONDS, Display, human_bytes, human_seconds

if TYPE_CHECKING:
    from pipeline.evaluation.scoring import Tally


class EvaluationProgress(Display):
    """Shows the stage, then bytes done, rate and the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._first: tuple[float, int] | None = None
        self._said = time.monotonic()

    def stage(self, text: str) -> None:
        """What is being done, on the live line only."""
        self._first = None
        self._bar.update(self._task, description=text, status="", completed=0)

    def preparing(self, event: Event) -> None:
        """What preparing the corpus tells, unless all is there already."""
        if event.kind != "note" or "already prepared" not in event.text:
            super().preparing(event)

    def through(self, total: int) -> "Callable[[Tally], None]":
        """Shows how far a tally is through so many bytes."""
        return lambda tally: self.show(tally.scored, total, lambda: tally.bits / tally.scored)

    def show(self, done: int, total: int, bpb: Callable[[], float] | None = None) -> None:
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
        code = f"{bpb():.3f} bpb  " if bpb else ""
        status = f"{human_bytes(done)} of {human_bytes(total)}  {code}{left}"
        self._bar.update(self._task, total=total, completed=done, status=status)
        if plain:
            self._said = now
            self.say(status)
