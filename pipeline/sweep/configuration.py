"""A configuration of a sweep: what the trials of all its seeds came to, and which one is the best."""

import statistics
from dataclasses import dataclass
from typing import Any

from pipeline.sweep.space import Values
from pipeline.sweep.trial import State, Trial


@dataclass(frozen=True)
class Configuration:
    """Values, and what became of the trials of all their seeds."""

    number: int
    values: Values
    trials: list[Trial]

    @property
    def state(self) -> State:
        states = {trial.state for trial in self.trials}
        return next(state for state in ("pruned", "failed", "running", "finished") if state in states)

    @property
    def counted(self) -> list[Trial]:
        """Whose results are told: all seeds; where one was pruned or failed, those that ended at its step."""
        return [trial for trial in self.trials if trial.bpb is not None and trial.step == self.step] or self.trials

    @property
    def bpb(self) -> float | None:
        """Mean over the trials that count."""
        reached = [trial.bpb for trial in self.counted if trial.bpb is not None]
        return statistics.fmean(reached) if reached else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over them, None for one."""
        reached = [trial.bpb for trial in self.counted if trial.bpb is not None]
        return statistics.stdev(reached) if len(reached) > 1 else None

    @property
    def step(self) -> int:
        """How far all of its trials got, at least."""
        return min((trial.step or 0 for trial in self.trials), default=0)

    def mean(self, name: str) -> float | None:
        """Mean over them of a result, where there is one."""
        values = [value for trial in self.counted if (value := getattr(trial, name)) is not None]
        return statistics.fmean(values) if values else None


def ranked(configurations: list[Configuration]) -> list[Configuration]:
    """The best first: those that finished, by their mean; then those that got farther before they were pruned."""
    order: dict[str, int] = {"finished": 0, "running": 1, "pruned": 1, "failed": 2}

    def key(one: Configuration) -> tuple[Any, ...]:
        bpb = float("inf") if one.bpb is None or one.bpb != one.bpb else one.bpb
        return order[one.state], 0 if one.state == "finished" else -one.step, bpb, one.number

    return sorted(configurations, key=key)
