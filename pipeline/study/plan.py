"""What a study trains next, from what there is: first each family's rates at the smallest size, then the grid."""

from dataclasses import dataclass
from typing import Any

from pipeline.config import RunConfig, TrainingConfig
from pipeline.study.budget import steps_within
from pipeline.study.config import StudyOptions, sized
from pipeline.sweep.configuration import Configuration
from pipeline.sweep.plan import Next, Skip, Wait
from pipeline.sweep.space import Values, configure, show
from pipeline.sweep.sweep import Sweep

STUDY = "study.json"
"""The options of the study, and the time of a step of each cell, in its folder."""

KEPT = ("bank_lr", "embedding_lr", "table_lr")
"""Factors on the learning rate of what is as wide in, or read one row at a time, at any width."""


def cell_name(family: str, dim: int) -> str:
    return f"{family} {dim}"


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a sweep. It remembers nothing: a start after a kill goes on as if there had been none."""

    study: StudyOptions
    run: RunConfig
    step_seconds: dict[str, float]
    """Of each cell, by `cell_name`."""

    @property
    def trials(self) -> int:
        """Trainings of all families, if every one of them can be trained."""
        study = self.study
        later = len(study.sizes) * study.seeds - 1  # The best of the rates is the first seed of the smallest size.
        checked = len(study.rates) - 1 if study.transfer and len(study.sizes) > 1 else 0
        return len(study.families) * (len(study.rates) + later + checked)

    def __str__(self) -> str:
        study = self.study
        grid = f"{len(study.families)} families × {len(study.sizes)} sizes × {study.seeds} seeds"
        return f"{grid}, {study.budget} a training, {len(study.rates)} rates each: {self.trials} trainings"

    def describe(self, values: Values) -> str:
        """`dense, dim 128, rate 0.003`."""
        rate = show(values["training.learning_rate"])
        for family in self.study.families:
            for dim in self.study.sizes:
                if sized(self.run.model, family, dim).items() <= values.items():
                    return f"{family}, dim {dim}, rate {rate}"
        return f"of an earlier plan, rate {rate}"

    @property
    def notes(self) -> dict[str, Any]:
        """What a start after a kill reads."""
        return {STUDY: {"study": self.study.to_dict(), "step_seconds": self.step_seconds}}

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """None: what cannot be trained is refused before anything is started."""
        return ()

    def check(self, sweep: Sweep) -> None:
        pass

    def values(self, family: str, dim: int, multiple: float) -> Values:
        """A cell at a multiple of the preset's rate, as that is at the smallest size."""
        run, share = self.run, self.study.sizes[0] / dim
        model = sized(run.model, family, dim)
        values = model | {"training.learning_rate": run.training.learning_rate * multiple * share}
        values |= {f"training.{name}": getattr(run.training, name) / share for name in KEPT}
        steps = steps_within(self.study, configure(run, values), self.step_seconds[cell_name(family, dim)])
        return values | _schedule(run.training, steps)

    def next(self, sweep: Sweep) -> Next | None:
        study, (smallest, *_) = self.study, self.study.sizes
        tried = sweep.configurations()
        for multiple in study.rates:
            for family in study.families:
                if wanted := self._missing(tried, family, smallest, multiple, seed=0):
                    return wanted
        best: dict[str, float] = {}
        waiting = False
        for family in study.families:
            try:
                multiple = self.best(tried, family, smallest)
            except Wait:
                waiting = True
                continue
            if multiple is not None:  # It trained with some rate.
                best[family] = multiple
        for seed in range(study.seeds):
            for dim in study.sizes:
                for family, multiple in best.items():
                    checked = study.rates if study.transfer and seed == 0 and dim == study.sizes[-1] else ()
                    for rate in dict.fromkeys((multiple, *checked)):
                        if wanted := self._missing(tried, family, dim, rate, seed=seed):
                            return wanted
        if waiting:
            raise Wait
        return None

    def best(self, tried: list[Configuration], family: str, dim: int) -> float | None:
        """The multiple with the fewest bits per byte at this size and the first seed; None if training failed with all.
        Raises: Wait before all have ended."""
        return _lowest({rate: self.find(tried, self.values(family, dim, rate)) for rate in self.study.rates})

    def find(self, tried: list[Configuration], values: Values) -> Configuration | None:
        """The configuration with these values."""
        return next((one for one in tried if one.values == values), None)

    def _missing(self, tried: list[Configuration], family: str, dim: int, multiple: float, seed: int) -> Next | None:
        values = self.values(family, dim, multiple)
        found = self.find(tried, values)
        if found is None:
            return Next(len(tried) + 1, values, seed, draw=len(tried))
        first = self.run.training.seed
        there = any(trial.seed == first + seed for trial in found.trials)
        return None if there else Next(found.number, values, seed, draw=found.number - 1)


def _lowest(found: dict[float, Configuration | None]) -> float | None:
    firsts = {rate: one and min(one.trials, key=lambda trial: trial.seed) for rate, one in found.items()}
    if any(trial is None or trial.state == "running" for trial in firsts.values()):
        raise Wait
    bits = {rate: trial.bpb for rate, trial in firsts.items() if trial and trial.state == "finished"}
    return min(bits, key=lambda rate: bits[rate] or float("inf"), default=None)


def _schedule(training: TrainingConfig, steps: int) -> Values:
    """So many steps, with the warm-up's share of the preset's, and one evaluation, at the end."""
    warmup = round(training.warmup / training.steps * steps)
    return {"training.steps": steps, "training.warmup": warmup, "training.evaluate_every": steps}
