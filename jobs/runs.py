"""The runs that there are: `python jobs/runs.py`, and `python jobs/runs.py --delete RUN`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from h2q.errors import require
from pipeline.cli import parse, run
from pipeline.shown import presentable

PROG = "python jobs/runs.py"


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """List runs, the newest first: state, lowest validation bits per byte, size, age and corpus. Or delete one."""

    delete: str | None = None
    """Delete the run, or the sweep with all its trials, of this name: its folder, and its runs in MLflow."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""
    mlflow: bool = True
    """Delete in MLflow too."""
    tracking_uri: str | None = None
    """MLflow tracking URI. None: the one that the run has noted."""
    json: bool = False
    """Print the list as JSON."""

    def __post_init__(self) -> None:
        require(not (self.json and self.delete), "json is for the list: leave it out, or leave out --delete")


def main(args: Sequence[str]) -> int:
    options = parse(RunsOptions, args, default=RunsOptions(), prog=PROG)
    from pipeline.comparison.delete import delete
    from pipeline.comparison.listed import as_json, list_table, listed
    from pipeline.config import TrackingConfig
    from pipeline.terminal import new_console

    console = new_console()

    def say(text: str) -> None:
        console.print(presentable(text), markup=False, highlight=False, soft_wrap=True)

    if options.delete is not None:
        delete(options.delete, options.storage, TrackingConfig(uri=options.tracking_uri, enabled=options.mlflow), say)
        return 0
    runs = listed(options.storage)
    if options.json:
        json.dump(as_json(runs), sys.stdout, indent=1)
        print()
    elif runs:
        console.print(list_table(runs))
    else:
        say(f"no runs in {options.storage}: train one with python jobs/train.py, or name another with --storage")
    return 0


if __name__ == "__main__":
    run(main)
