"""A run on the terminal: one live line where it is a terminal, plain lines where it is not."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from pipeline.config import RunConfig
from pipeline.prepare.prepare import Event
from pipeline.runs.journal import Record

PLAIN_SECONDS = 10.0
"""Least time between two plain lines, validations aside."""


def live_line(console: Console) -> Bar:
    """One line that says what is being done, how far it is, and `status`; nothing where the output is no terminal."""
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Progress:
    """Shows stages of the start, then the newest record of the journal."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console = console
        self._steps = config.training.steps
        self._bytes_per_step = config.training.lanes * config.model.seq_len
        self._shown_at = -PLAIN_SECONDS
        self._latest: Record = {}
        self._bar = live_line(console)
        self._task = self._bar.add_task("", total=self._steps, status="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """What is being done before the first step."""
        if self._console.is_terminal:
            self._bar.update(self._task, description=text, status="", completed=0)
        else:
            self.say(text)

    def preparing(self, event: Event) -> None:
        """What preparing the corpus tells."""
        if event.kind == "note":
            self.say(event.text)
        elif event.total:
            self._bar.update(
                self._task,
                description=f"preparing {event.text}",
                status=f"{human_bytes(event.done)} of {human_bytes(event.total)}",
                completed=self._steps * event.done / event.total,
            )

    def show(self, records: list[Record]) -> None:
        """The newest of the records; each validation also as a line that stays."""
        for record in records:
            self._latest |= record
            validated = "validation/bpb" in record
            plain = not self._console.is_terminal and time.monotonic() - self._shown_at >= PLAIN_SECONDS
            if validated or plain:
                self._shown_at = time.monotonic()
                self.say(f"step {record['step']:>{len(str(self._steps))}}/{self._steps}  {self._status()}")
        self._bar.update(
            self._task,
            completed=self._latest["step"],
            description=f"step {self._latest['step']}",
            status=self._status(),
        )

    def again(self, step: int) -> None:
        """Steps from this one on are trained once more."""
        self.say(f"training goes on from step {step} once more: a worker was lost, or gradients were not finite")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _status(self) -> str:
        latest = self._latest
        parts = []
        if "train/bpb" in latest:
            parts.append(f"{latest['train/bpb']:.3f} bpb")
        if "validation/bpb" in latest:
            parts.append(f"validation {latest['validation/bpb']:.3f}")
        energies = [value for name, value in latest.items() if name.startswith("energy/")]
        if energies:
            parts.append(f"energy {energies[-1]:.1f}")
        if "growth/rank" in latest:
            parts.append(f"rank {latest['growth/rank']}")
        if "bytes_per_second" in latest:
            rate = latest["bytes_per_second"]
            parts.append(f"{human_bytes(rate)}/s")
            parts.append(human_bytes(latest["memory/peak_bytes"]))
            parts.append(f"ETA {human_seconds((self._steps - latest['step']) * self._bytes_per_step / rate)}")
        return "  ".join(parts)


def human_bytes(count: float) -> str:
    """12,345,678 → '12.3 MB' (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} TB"


def human_seconds(seconds: float) -> str:
    """3725 → '1:02:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
