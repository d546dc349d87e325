"""Compare runs: `python jobs/compare.py RUN …` or `--experiment NAME [--last N]`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from h2q.errors import require
from pipeline.cli import parse, run
from pipeline.shown import printable

PROG = "python jobs/compare.py"


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Runs side by side: the fields in which they differ, their results, their curves in one picture."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN …")] = ()
    """Runs: names, folders, sweeps (their best trial), MLflow run ids, registered models, `latest`, `best`."""
    experiment: str | None = None
    """Instead of RUN …: the newest runs of this MLflow experiment, best first."""
    last: int | None = None
    """Instead of RUN …: so many of the newest runs, of the experiment (None: 20) or of the storage folder."""
    plot: str = "comparison.png"
    """File for the picture of the curves."""
    html: str | None = None
    """File for one page with table, picture and samples, which needs nothing beside it."""
    json: bool = False
    """Print JSON instead of a table."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""
    tracking_uri: str | None = None
    """MLflow tracking URI. None: MLFLOW_TRACKING_URI if set, else sqlite:///<working directory>/mlflow.db."""

    def __post_init__(self) -> None:
        require(self.last is None or self.last >= 1, f"last must be at least 1 run, got {self.last}")
        require(
            not self.runs or (self.experiment is None and self.last is None),
            f"name runs, or ask for the newest with --experiment or --last, not both, got {' '.join(self.runs)}",
        )


def main(args: Sequence[str]) -> int:
    options = parse(CompareOptions, args, default=CompareOptions(), prog=PROG)
    require(
        bool(options.runs or options.experiment or options.last),
        f"name runs, {PROG} RUN …, or say --last N for the newest, or --experiment NAME",
    )
    for path in (options.plot, options.html):
        require(
            path is None or Path(path).absolute().parent.is_dir(),
            f"the folder of {path} does not exist: make it, or name another file",
        )
    from pipeline.comparison.compare import compare
    from pipeline.comparison.find import experiment_runs, find_runs, newest_runs
    from pipeline.comparison.page import write_page
    from pipeline.comparison.picture import picture
    from pipeline.comparison.table import table
    from pipeline.config import TrackingConfig
    from pipeline.storage.uri import write_atomic
    from pipeline.terminal import new_console

    tracking = TrackingConfig(uri=options.tracking_uri)
    if options.experiment:
        runs = experiment_runs(options.experiment, options.last or 20, tracking)
    elif options.last:
        runs = newest_runs(options.last, options.storage)
    else:
        runs = find_runs(options.runs, storage=options.storage, tracking=tracking)
    comparison = compare(runs)
    png = picture(comparison)
    write_atomic(Path(options.plot), png)
    if options.html:
        write_page(comparison, png, Path(options.html))
    if options.json:
        json.dump(comparison.to_dict(), sys.stdout, indent=1)
        print()
        return 0
    console = new_console()
    shown, hidden = table(comparison, console.width)
    console.print(shown)
    if hidden:
        console.print(f"no room for: {', '.join(hidden)} (a wider terminal, --html FILE or --json)", highlight=False)
    for line in (*comparison.notes, f"curves: {Path(options.plot).absolute()}"):
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if options.html:
        console.print(f"page: {Path(options.html).absolute()}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
