"""What falls due at a step, as pure functions of it: the learning rate, and the evaluations.

The rate of a resumed run: `cosine` and `constant` go on along the curve of its number of steps, whatever it was before.
`warm-down` starts a leg at the checkpoint that was made under another schedule: from the rate there down to the floor's
share of it at the last step.
"""

import math
from typing import TypedDict

from pipeline.config import RunConfig, TrainingConfig


class Leg(TypedDict):
    """Where a warm-down begins."""

    step: int
    share: float
    """Of the peak learning rate, there."""


def learning_rate(step: int, training: TrainingConfig, leg: Leg | None = None) -> float:
    """The learning rate of a step: linear warm-up, then constant, or a cosine to the floor from its peak or its leg."""
    warmup = min(training.warmup, training.steps // 3)
    if leg is None and step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    first, share = (leg["step"], leg["share"]) if leg else (warmup, 1.0)
    progress = (step - first) / max(1, training.steps - first)
    above = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return training.learning_rate * share * (training.floor + (1 - training.floor) * above)


def next_leg(step: int, training: TrainingConfig, earlier: TrainingConfig, leg: Leg | None) -> Leg | None:
    """The leg on which a run goes on from the checkpoint of a step, made under `earlier` and on the leg given."""
    if training.schedule != "warm-down":
        return None
    if (training.schedule, training.steps) == (earlier.schedule, earlier.steps):
        return leg
    return Leg(step=step, share=learning_rate(step, earlier, leg) / earlier.learning_rate)


def due_evaluations(step: int, training: TrainingConfig, evaluated: dict[str, int]) -> list[str]:
    """What is evaluated after so many steps and was not yet, in order: `validation`, at the end `test`, a `sample`.

    `evaluated`: at which step each was done last.
    """
    if step == training.steps:
        wanted = ["validation", "test", "sample"]
    else:
        wanted = ["validation", "sample"] if step and step % training.evaluate_every == 0 else []
    return [name for name in wanted if evaluated.get(name) != step]


def scored_after(step: int, run: RunConfig, *, validation: int, test: int) -> int:
    """Bytes that the evaluations behind a step score, of splits of these sizes."""
    training = run.training
    if step >= training.steps:
        return 0
    validation, test = training.scored(validation), training.scored(test)
    on_the_way = (training.steps - 1) // training.evaluate_every - step // training.evaluate_every
    twice = 2 if run.carries else 1  # at the end also without the state
    return on_the_way * validation + twice * (validation + test)
