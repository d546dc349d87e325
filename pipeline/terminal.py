"""The terminal: a live line where output is one, plain lines where it is not; numbers as people read them."""

import time
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from pipeline.events import Event
from pipeline.shown import presentable

PLAIN_SECONDS = 10.0
"""Least time between two plain lines, those that always stay aside."""


def new_console(**options: Any) -> Console:
    """A console of rich's that shows `:a:` in a path or a name as it is, not as the picture of that name."""
    return Console(emoji=False, **options)


class Display:
    """The base of what training, evaluation, sweeps and preparation show: a stage, a share done, lines that stay."""

    def __init__(self, console: Console, *, total: float | None = 1.0) -> None:
        """`total`: what `completed` counts up to, None where nobody knows."""
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_bar_width(console)),
            TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, status="")
        self._preparing = "", 0.0, 0  # what, since when, and how much of it was there then

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """What is being done: on the live line, else as a line of its own."""
        if self._console.is_terminal:
            self._bar.update(self._task, description=presentable(text), status="", completed=0)
        else:
            self.say(text)

    def live(self, doing: str, parts: list["Part"], completed: float, total: float | None) -> None:
        """The live line: what is being done, a bar, and as many of the parts as there is room for."""
        room = self._console.width - len(doing) - _bar_width(self._console) - 3
        self._bar.update(self._task, description=doing, status=fit(parts, room), completed=completed, total=total)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(presentable(text), highlight=False, markup=False, soft_wrap=True)

    def preparing(self, event: Event) -> None:
        """What preparing a corpus tells."""
        if event.kind == "note":
            self.say(event.text)
        elif event.total:
            now = time.monotonic()
            if event.text != self._preparing[0]:
                self._preparing = event.text, now, event.done
            _, began, first = self._preparing
            status = f"{human_bytes(event.done)} of {human_bytes(event.total)}"
            if event.done > first and now - began >= 1:
                rate = (event.done - first) / (now - began)
                status += f"  {human_bytes(rate)}/s  ETA {human_seconds((event.total - event.done) / rate)}"
            self._bar.update(
                self._task,
                description=presentable(f"preparing {event.text}"),
                status=status,
                total=event.total,
                completed=event.done,
            )


def _bar_width(console: Console) -> int:
    return max(4, min(24, (console.width - 40) // 4))


class Part(NamedTuple):
    """A figure of a line. `weight`: where there is no room for all, those of the largest go first."""

    text: str
    weight: int


def fit(parts: list[Part], room: int) -> str:
    """The parts in their order, without the heaviest where all would take more than `room` columns."""
    while len(parts) > 1 and len("  ".join(part.text for part in parts)) > room:
        heaviest = max(parts, key=lambda part: part.weight)
        parts = [part for part in parts if part is not heaviest]
    return "  ".join(part.text for part in parts)


def human_bytes(count: float) -> str:
    """12,345,678 → '12.3 MB' (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # which is rounded to 1000
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} TB"


def human_seconds(seconds: float) -> str:
    """3725 → '1:02:05', 100,000 → '1 d 3 h'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        days, hours = divmod(round(seconds / 3600), 24)
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
