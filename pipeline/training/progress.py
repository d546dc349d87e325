"""A run on the terminal: one live line where it is a terminal, plain lines where it is not."""

import time

from rich.console import Console

from pipeline.config import RunConfig
from pipeline.runs.journal import Record
from pipeline.terminal import PLAIN_SECONDS, Display, human_bytes, human_seconds


class Progress(Display):
    """Shows stages of the start, then the newest record of the journal."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        super().__init__(console, total=config.training.steps)
        self._steps = config.training.steps
        self._bytes_per_step = config.bytes_per_step
        self._shown_at = -PLAIN_SECONDS
        self._latest: Record = {}

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
            total=self._steps,
            completed=self._latest["step"],
            description=f"step {self._latest['step']}",
            status=self._status(),
        )

    def again(self, step: int) -> None:
        """Steps from this one on are trained once more."""
        self.say(f"training goes on from step {step} once more: a worker was lost, or gradients were not finite")

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
