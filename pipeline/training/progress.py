"""A run on the terminal: one live line where it is a terminal, plain lines where it is not."""

import time
from collections import deque

from rich.console import Console

from h2q.alphabet import MARKERS
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.journal import Record
from pipeline.runs.stage import Stage
from pipeline.terminal import PLAIN_SECONDS, Display, Part, fit, human_bytes, human_seconds
from pipeline.training.energy import STEEP, energies, steepness
from pipeline.training.schedule import scored_after

_LAPS = 10
"""Records over which the rate is averaged from which the time left is told."""
_SCORING = 3
"""Bytes that are scored in the time in which one is trained on, until the first evaluation tells."""


class Progress(Display):
    """Shows stages of the start, then the newest record of the journal, and evaluations on their way."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        super().__init__(console, total=config.training.steps)
        self._config, self._steps = config, config.training.steps
        self._shown_at = -PLAIN_SECONDS
        self._latest: Record = {}
        self._step = 0
        self._laps, self._rates = 0, deque[float](maxlen=_LAPS)
        self._sizes = {"validation": 0, "test": 0}
        self._seconds_a_byte: float | None = None

    def judge_by(self, corpus: Corpus) -> None:
        """How much an evaluation scores: its time belongs to that of the run."""
        self._sizes = {"validation": len(corpus.validation), "test": len(corpus.test)}

    def show(self, records: list[Record]) -> None:
        """The newest of the records; each validation also as a line that stays."""
        for record in records:
            self._note(record)
            validated = "validation/bpb" in record
            if validated or self._plain_line_is_due():
                self._shown_at = time.monotonic()
                room = self._console.width if self._console.is_terminal else 1000
                self.say(fit([Part(self._at(), 0), *self._parts()], room))
        self.live(self._at(), self._parts(), self._step, self._steps)

    def evaluating(self, stage: Stage | None) -> None:
        """How far an evaluation is; None once it is over."""
        if stage is None:
            self.live(self._at(), self._parts(), self._step, self._steps)
            return
        done, total = stage["done"], stage["total"]
        doing = f"{self._at()}  evaluating {stage['name']}"
        parts = [Part(f"{human_bytes(done)} of {human_bytes(total)}", 1), *self._eta()]
        self.live(doing, parts, done, total)
        if self._plain_line_is_due():
            self._shown_at = time.monotonic()
            self.say(fit([Part(doing, 0), *parts], 1000))

    def again(self, step: int) -> None:
        """Steps from this one on are trained once more."""
        self.say(f"training goes on from step {step} once more: a worker was lost, or gradients were not finite")

    def seconds_left(self) -> float | None:
        """Of training, and of the evaluations on the way and at the end; None before anything was measured."""
        if not self._rates:
            return None
        a_byte = sum(1 / rate for rate in self._rates) / len(self._rates)
        trained = (self._steps - self._step) * self._config.bytes_per_step
        scored = scored_after(self._step, self._config, **self._sizes)
        return trained * a_byte + scored * (self._seconds_a_byte or a_byte / _SCORING)

    def _note(self, record: Record) -> None:
        self._latest |= record
        self._step = record["step"]
        if "bytes_per_second" in record:
            self._laps += 1
            if self._laps == 2:
                self._rates.clear()  # the first lap made everything ready
            self._rates.append(record["bytes_per_second"])
        if "evaluation_seconds" in record:
            # Behind the last evaluation, that scores the test split too, there is nothing left to tell.
            scored = self._config.training.scored(self._sizes["validation"])
            self._seconds_a_byte = record["evaluation_seconds"] / scored if scored else None

    def _plain_line_is_due(self) -> bool:
        return not self._console.is_terminal and time.monotonic() - self._shown_at >= PLAIN_SECONDS

    def _at(self) -> str:
        return f"step {self._step:>{len(str(self._steps))}}/{self._steps}"

    def _parts(self) -> list[Part]:
        """What a person wants to see, and the rest where it says something."""
        latest, parts = self._latest, []
        if "train/bpb" in latest:
            parts.append(Part(f"{latest['train/bpb']:.3f} bpb", 1))
        if "validation/bpb" in latest:
            parts.append(Part(f"validation {latest['validation/bpb']:.3f}", 4))
            names = {kind: f"validation/{kind}/bpb" for kind in MARKERS}
            parts += [Part(f"{kind} {latest[name]:.3f}", 5) for kind, name in names.items() if name in latest]
        if "test/bpb" in latest:
            parts.append(Part(f"test {latest['test/bpb']:.3f}", 4))
        if latest.get("learning_rate"):
            parts.append(Part(f"lr {latest['learning_rate']:.2g}", 6))
        if "bytes_per_second" in latest:
            parts.append(Part(f"{human_bytes(latest['bytes_per_second'])}/s", 5))
            parts.append(Part(human_bytes(latest["memory/peak_bytes"]), 7))
        if self._config.growth.enabled and "growth/rank" in latest:
            parts.append(Part(f"rank {latest['growth/rank']}", 8))
        if latest.get("skipped_steps"):
            parts.append(Part(f"{latest['skipped_steps']} skipped", 3))
        if steepness(latest) >= STEEP:
            parts.append(Part(f"energy {energies(latest)[-1]:.3g} (×{steepness(latest):.0f})", 3))
        return parts + self._eta()

    def _eta(self) -> list[Part]:
        left = self.seconds_left()
        return [] if left is None else [Part(f"ETA {human_seconds(left)}", 2)]
