"""A study, from its config to its sentences: a sweep whose trials a plan chooses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from h2q.errors import UserError, require
from pipeline.cluster.resources import Resources
from pipeline.config import RunConfig
from pipeline.runs.folder import RunFolder
from pipeline.runs.stop import Stopping
from pipeline.storage.json_file import object_of, shape_of
from pipeline.study.budget import step_seconds
from pipeline.study.config import StudyConfig, StudyOptions, sized
from pipeline.study.plan import STUDY, StudyPlan, cell_name
from pipeline.study.report import conclude
from pipeline.sweep.driver import tune
from pipeline.sweep.report import Report
from pipeline.sweep.space import configure
from pipeline.sweep.sweep import Sweep

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
        return StudyPlan(config.study, run, earlier | _timed(new, resources))

    def draw(sweep: Sweep, plots: Path, say: Callable[[str], None]) -> None:
        assert isinstance(sweep.plan, StudyPlan)
        conclude(sweep, sweep.plan)

    cells_of(config, lambda run: None)
    try:
        return tune(config.sweep, preset=preset, command=command, console=console, planner=planner, draw=draw)
    except UserError as error:
        raise UserError(str(error).replace("search.concurrency", "study.concurrency")) from error


def cells_of(config: StudyConfig, check: Callable[[RunConfig], None]) -> dict[str, RunConfig]:
    """The run of each family and size, by name. Raises: UserError naming one that cannot be trained."""
    cells = {}
    for family in config.study.families:
        for dim in config.study.sizes:
            try:
                run = configure(config.run, sized(config.run.model, family, dim))
                check(run)
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
