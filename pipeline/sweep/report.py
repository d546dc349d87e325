"""The result of a sweep: the ranked table, on the terminal and as CSV, and the command that trains the best."""

import csv
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.columns import Column, fitted, narrow
from pipeline.runs.folder import RunFolder
from pipeline.shown import cell, printable
from pipeline.sweep.configuration import Configuration, ranked
from pipeline.sweep.folder import TABLE
from pipeline.sweep.space import Value, configure, show
from pipeline.sweep.sweep import Sweep, train_command
from pipeline.sweep.trial import Told, told
from pipeline.terminal import human_bytes, human_seconds
from pipeline.training.summary import read_summary


@dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration in the table."""

    position: int | None
    """From 1, of those that finished."""
    configuration: Configuration
    front: bool
    """On the Pareto front: none that finished is better in one objective and as good in the other."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a sweep."""

    name: str
    fields: list[str]
    rows: list[Row]
    best: Configuration | None
    """Of those that finished, by the mean over seeds."""
    best_run: RunFolder | None
    """The run of its best seed."""
    command: str | None
    """Trains the best."""
    registered: bool
    """Whether the sweep was told to register it."""
    objectives: tuple[str, ...]
    counts: dict[Told, int]
    """Trials by state: nothing runs any more."""
    skipped: int
    errors: list[str]
    """Why trials failed, each reason once."""

    def show(self, console: Console, folder: RunFolder) -> None:
        """The table, the best configuration, where the pictures are, and how to look at the trials in MLflow."""
        console.print()
        table, hidden = self._table(console.width)
        console.print(table)
        if hidden:
            where = folder.path / TABLE
            console.print(f"no room for {', '.join(hidden)}: all of it is in {where}", highlight=False, soft_wrap=True)
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        console.print(
            f"trials: {counts}" + (f"; {self.skipped} draws skipped" if self.skipped else ""), highlight=False
        )
        for error in self.errors if self.best else []:
            console.print(printable(f"failed: {error}"), highlight=False, markup=False, soft_wrap=True)
        if self.command is not None:
            console.print("\n[bold]train the best[/bold]")
            console.print(self.command, highlight=False, markup=False, soft_wrap=True)
        summary = self.best_run and read_summary(self.best_run)
        if self.best_run and summary and summary.mlflow_tracking_uri and not self.registered:
            console.print("\n[bold]register it as it is[/bold]")
            at = f"--storage {shlex.quote(str(folder.path))} --name {self.best_run.name}"
            line = f"python jobs/train.py --resume {at} --tracking.register NAME"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print("\n[bold]pictures[/bold]")
        console.print(str(folder.plots), highlight=False, markup=False, soft_wrap=True)
        if summary:
            summary.show_ui(console)

    def save(self, folder: RunFolder) -> None:
        """Write table.csv and summary.json."""
        with open(folder.path / TABLE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_header(self), *(_cells(self, row) for row in self.rows)])
        best = None
        if self.best is not None:
            best = {
                "configuration": self.best.number,
                "run": self.best_run and self.best_run.name,
                "values": self.best.values,
                "validation_bpb": self.best.bpb,
            }
        folder.write_summary(
            {"name": self.name, "best": best, "command": self.command, "trials": self.counts, "errors": self.errors}
        )

    def _table(self, width: int) -> tuple[Table, list[str]]:
        """As much of it as fits a terminal of so many columns, and the names of the other columns."""
        tried = [row.configuration for row in self.rows]
        two = len(self.objectives) > 1
        marks = [f"{row.position or ''}{' *' if two and row.front else ''}" for row in self.rows]
        lasts = [field.rpartition(".")[2] for field in self.fields]
        columns = [
            Column("", marks),
            *(
                Column(field, [show(one.values[field]) for one in tried], 4 + number, narrow(last))
                for number, (field, last) in enumerate(zip(self.fields, lasts, strict=True))
            ),
            Column("bpb", [bits(one) for one in tried], 0),
            Column("parameters", _all(tried, "parameters", lambda value: f"{value:,.0f}"), 92),
            Column("rank", _all(tried, "rank", lambda value: f"{value:g}"), 94),
            Column("B/s", _all(tried, "bytes_per_second", human_bytes), 93),
            Column("time", _all(tried, "seconds", human_seconds), 91),
            Column("step", [str(one.step) for one in tried], 3),
            Column("state", [told(one.state) for one in tried], 1, left=True),
            Column("trial", [_trials(one) for one in tried], 2, left=True),
        ]
        styles = ["bold" if row.position == 1 else "" if row.position else "dim" for row in self.rows]
        table, hidden = fitted(columns, width, styles)
        table.title = cell(f"{self.name}: validation bits per byte")
        table.title_justify, table.title_style = "left", "bold"
        if two:
            table.caption = f"* on the Pareto front of {' and '.join(self.objectives)}"
        return table, hidden


def report_on(sweep: Sweep) -> Report:
    """The report of the trials that there are."""
    order = ranked(sweep.configurations())
    finished = [configuration for configuration in order if complete(configuration, sweep)]
    front = pareto_front(finished, sweep.config.search.objectives)
    positions = {configuration.number: position for position, configuration in enumerate(finished, 1)}
    best = finished[0] if finished else None
    states = [told(trial.state) for trial in sweep.trials]
    return Report(
        name=sweep.name,
        fields=list(dict.fromkeys(field for one in order for field in one.values)),
        rows=[Row(position=positions.get(one.number), configuration=one, front=one.number in front) for one in order],
        best=best,
        best_run=best and sweep.folder_of(min(best.trials, key=lambda trial: trial.bpb or 0.0)),
        command=best and train_command(configure(sweep.config.run, best.values), sweep.preset),
        registered=sweep.config.run.tracking.register is not None,
        objectives=sweep.config.search.objectives,
        counts={state: states.count(state) for state in ("finished", "pruned", "failed", "interrupted")},
        skipped=len(sweep.plan.skipped),
        errors=list(dict.fromkeys(trial.error for trial in sweep.trials if trial.error)),
    )


def complete(configuration: Configuration, sweep: Sweep) -> bool:
    """Whether all of its seeds finished."""
    return configuration.state == "finished" and len(configuration.trials) == sweep.config.search.seeds


def pareto_front(finished: list[Configuration], objectives: tuple[str, ...]) -> set[int]:
    """Numbers of the configurations that no other one beats: as good in all objectives, better in one."""
    points = {one.number: [one.mean(name) for name in objectives] for one in finished}
    whole = {number: [value for value in point if value is not None] for number, point in points.items()}

    def beaten(mine: list[float]) -> bool:
        return any(other != mine and all(theirs <= own for theirs, own in zip(other, mine)) for other in whole.values())

    return {number for number, point in whole.items() if not beaten(point)}


def bits(configuration: Configuration) -> str:
    """`2.345 ± 0.012`."""
    bpb, spread = configuration.bpb, configuration.spread
    if bpb is None:
        return "–"
    return f"{bpb:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _trials(tried: Configuration) -> str:
    """`01, 02`; where not all of them count for the results, `02 of 01, 02`."""
    counted, all_ = (", ".join(f"{one.number:02d}" for one in ones) for ones in (tried.counted, tried.trials))
    return all_ if counted == all_ else f"{counted} of {all_}"


def _header(report: Report) -> list[str]:
    results = ["validation_bpb", "spread", "parameters", "rank", "bytes_per_second", "seconds", "step", "state"]
    return ["place", *report.fields, *results, "pareto_front", "trials", "counted", "error"]


def _cells(report: Report, row: Row) -> list[Any]:
    tried = row.configuration
    results: list[Value] = [tried.bpb, tried.spread]
    results += [tried.mean(name) for name in ("parameters", "rank", "bytes_per_second", "seconds")]
    errors = "; ".join(trial.error for trial in tried.trials if trial.error)
    trials, counted = (" ".join(str(trial.number) for trial in ones) for ones in (tried.trials, tried.counted))
    values = [tried.values.get(field) for field in report.fields]
    return [row.position, *values, *results, tried.step, told(tried.state), row.front, trials, counted, errors]


def _all(tried: list[Configuration], name: str, shown: Callable[[float], str]) -> list[str]:
    """A result of every configuration, for people."""
    return ["–" if (value := one.mean(name)) is None else shown(value) for one in tried]
