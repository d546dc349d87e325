"""A study, from its config to its sentences: a sweep whose trials a plan chooses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from h2q.errors import UserError, require
from pipeline.cluster.resources import Resources
from pipeline.config import RunConfig, new_run
from pipeline.runs.folder import RunFolder
from pipeline.runs.stop import Stopping
from pipeline.shown import note
from pipeline.storage.json_file import object_of, shape_of
from pipeline.study.budget import step_seconds, steps_within
from pipeline.study.config import StudyConfig, StudyOptions, sized
from pipeline.study.plan import STUDY, StudyPlan, cell_name
from pipeline.study.report import conclude
from pipeline.sweep.driver import tune
from pipeline.sweep.report import Report
from pipeline.sweep.space import configure
from pipeline.sweep.sweep import Sweep
from pipeline.tracking.provenance import flatten

ROUNDS = 3
"""Times that a step of each family and size is timed."""


def study(config: StudyConfig, *, preset: str, command: str, console: Console) -> tuple[Report, RunFolder, Stopping]:
    """Run the study, or the rest of it (`resume`), to its end or until a signal stops it.

    Raises: UserError for what the user can mend, as far as possible before anything is started.
    """

    def planner(
        folder: RunFolder, run: RunConfig, check: Callable[[RunConfig], None], resources: Resources
    ) -> StudyPlan:
        cells = cells_of(config, check)
        earlier = (read_study(folder) or {"step_seconds": {}})["step_seconds"]
        new = {cell: one for cell, one in cells.items() if cell not in earlier}
        taken = earlier | _timed(new, resources)
        for cell, one in cells.items():
            steps_within(config.study, one, taken[cell])
        return StudyPlan(config.study, run, taken)

    def draw(sweep: Sweep, plots: Path, say: Callable[[str], None]) -> None:
        assert isinstance(sweep.plan, StudyPlan)
        conclude(sweep, sweep.plan)

    cells_of(config, lambda run: None)
    if not config.run.resume:
        for line in overridden(config, new_run(preset)):
            note(line)
    try:
        return tune(config.sweep, preset=preset, command=command, console=console, planner=planner, draw=draw)
    except UserError as error:
        raise UserError(str(error).replace("search.concurrency", "study.concurrency")) from error


def overridden(config: StudyConfig, usual: RunConfig) -> list[str]:
    """What was asked for, other than in the preset, and is not what the trainings get: a line for each."""
    study, was, now = config.study, flatten(usual.to_dict()), flatten(config.run.to_dict())
    instead = {
        "model.dim": f"--study.sizes says ({', '.join(map(str, study.sizes))})",
        "model.kind": f"--study.families says ({', '.join(study.families)})",
        "model.factors": "--study.families says (shared, where it says nothing)",
        "training.steps": f"--study.budget {study.budget} allows",
        "training.evaluate_every": "--study.budget allows: they are evaluated at their end",
    }
    if study.sizes == (now["model.dim"],):
        del instead["model.dim"]
    changed = [name for name in instead if now[name] != was[name]]
    return [f"{name} is what {instead[name]} in trainings, not {now[name]}" for name in changed]


def cells_of(config: StudyConfig, check: Callable[[RunConfig], None]) -> dict[str, RunConfig]:
    """The run of each family and size, by name. Raises: UserError naming one that cannot be trained."""
    cells = {}
    for family in config.study.families:
        for dim in config.study.sizes:
            try:
                run = configure(config.run, sized(config.run.model, family, dim))
                check(run)
                if config.study.currency != "seconds":  # which only a timing tells
                    steps_within(config.study, run, seconds=0.0)
            except UserError as error:
                raise UserError(f"{family} cannot be trained with model.dim {dim}: {error}") from None
            cells[cell_name(family, dim)] = run
    return cells


def _timed(cells: dict[str, RunConfig], resources: Resources) -> dict[str, float]:
    """Seconds of a step of each, where trials are trained: the least of some rounds over all of them, since what else
    the machine does only adds to it."""
    import ray

    timing: Any = ray.remote(num_cpus=resources.cpus, num_gpus=int(resources.gpu))(step_seconds)
    rounds: list[dict[str, float]] = [
        {cell: ray.get(timing.remote(run, resources)) for cell, run in cells.items()} for _ in range(ROUNDS)
    ]
    return {cell: min(taken[cell] for taken in rounds) for cell in cells}


def read_study(folder: RunFolder) -> dict[str, Any] | None:
    """The options of the study in the folder and the time of a step of each cell; None where there is no study."""
    return folder.read(STUDY, object_of(study=shape_of(StudyOptions, complete=True), step_seconds=dict[str, float]))


def check_same_study(earlier: StudyOptions, later: StudyOptions) -> None:
    """Refuse to go on with another study; with `extend` families, larger sizes, seeds and `transfer` may be added.

    Raises: UserError naming the first option that differs, and both values.
    """
    for name, was in earlier.to_dict().items():
        now = getattr(later, name)
        if name in ("extend", "concurrency"):
            continue
        added = later.extend and name in ("families", "sizes", "seeds", "transfer") and _holds(now, was)
        require(
            added or now == was,
            f"resume keeps to the study that was begun: study.{name} was {was}, now {now}; leave it out, start another "
            "--name, or add families, larger sizes or seeds with --study.extend",
        )


def _holds(now: Any, was: Any) -> bool:
    """Whether all that there was is still there."""
    if isinstance(was, tuple):
        return set(was) <= set(now) and (not isinstance(was[0], int) or now[0] == was[0])
    return now >= was
