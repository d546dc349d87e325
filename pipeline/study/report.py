"""The result of a study: study.csv with every training, study.md with table and sentences, the picture."""

import csv
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2q.baselines import multiply_adds
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import read_journal
from pipeline.study.budget import step_multiply_adds
from pipeline.study.plan import StudyPlan, cell_name
from pipeline.study.plots import draw
from pipeline.study.result import CURRENCIES, Outcome, families, slope, verdict
from pipeline.study.stored import stored
from pipeline.sweep.plan import Wait
from pipeline.sweep.space import show
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.trial import Trial, told
from pipeline.terminal import human_seconds

CSV, TEXT, PICTURE = "study.csv", "study.md", "study.png"
UNITS = {"seconds": " s", "multiply_adds": "", "parameters": "", "stored_bytes": "B"}


@dataclass(frozen=True)
class Training:
    """One training of the study."""

    family: str
    dim: int
    multiple: float
    """Of the preset's learning rate, as it is at the smallest size."""
    chosen: bool
    """Whether the grid has it: the best multiple of its family."""
    trial: Trial
    figures: dict[str, Any]
    """For study.csv: costs and results."""


def trainings(sweep: Sweep, plan: StudyPlan) -> list[Training]:
    """All that were started, by family, size and rate."""
    found = []
    tried = sweep.configurations()
    for family in plan.study.families:
        try:
            best = plan.best(tried, family, plan.study.sizes[0])
        except Wait:
            best = None
        for dim in plan.study.sizes:
            for multiple in plan.study.rates:
                one = plan.find(tried, plan.values(family, dim, multiple))
                for trial in one.trials if one else ():
                    figures = _figures(sweep, plan, trial, cell_name(family, dim))
                    found.append(Training(family, dim, multiple, multiple == best, trial, figures))
    return found


def _figures(sweep: Sweep, plan: StudyPlan, trial: Trial, cell: str) -> dict[str, Any]:
    run, folder = sweep.config_of(trial), sweep.folder_of(trial)
    latest: dict[str, Any] = {}
    for record in read_journal(folder.journal):
        latest |= record
    steps = run.training.steps
    return {
        "learning_rate": run.training.learning_rate,
        "steps": steps,
        "bytes_seen": steps * run.bytes_per_step,
        "seconds": steps * plan.step_seconds[cell],
        "multiply_adds": steps * step_multiply_adds(run),
        "multiply_adds_a_byte": multiply_adds(run.model),
        "parameters": trial.parameters,
        "stored_bytes": stored(folder if trial.state == "finished" else None, run.model),
        "wall_seconds": trial.seconds,
        "validation_bpb": trial.bpb,
        "test_bpb": latest.get("test/bpb"),
        "state": trial.state,
        "error": trial.error,
    }


def outcomes_of(trainings: list[Training]) -> list[Outcome]:
    """The grid: what finished with the rate of its family, seeds together."""
    cells: dict[tuple[str, int], list[Training]] = {}
    for one in trainings:
        scored = None not in (one.figures["validation_bpb"], one.figures["test_bpb"])
        if one.chosen and one.trial.state == "finished" and scored:
            cells.setdefault((one.family, one.dim), []).append(one)
    return [
        Outcome(
            family,
            dim,
            tuple(one.figures["test_bpb"] for one in ones),
            _costs(ones),
            statistics.fmean(one.figures["validation_bpb"] for one in ones),
        )
        for (family, dim), ones in cells.items()
    ]


def _costs(ones: list[Training]) -> dict[str, float]:
    return {name: max(one.figures[name] for one in ones) for name in CURRENCIES}


def conclude(sweep: Sweep, plan: StudyPlan) -> None:
    """Write table, sentences and picture into the study's folder."""
    ones = trainings(sweep, plan)
    sweep.folder.plots.mkdir(exist_ok=True)
    draw(outcomes_of(ones), f"{sweep.name}: bits per byte by what it costs", sweep.folder.plots / PICTURE)
    if ones:
        _write_csv(ones, sweep.folder.path / CSV)
    (sweep.folder.path / TEXT).write_text(as_text(sweep, plan, ones), encoding="utf-8")


def _write_csv(ones: list[Training], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "family", "dim", "seed", "rate_multiple", "chosen", *ones[0].figures])
        for one in sorted(ones, key=lambda one: one.trial.number):
            about = [one.trial.number, one.family, one.dim, one.trial.seed, one.multiple, one.chosen]
            table.writerow([*about, *one.figures.values()])


def as_text(sweep: Sweep, plan: StudyPlan, ones: list[Training]) -> str:
    """Sentences, table and rates, as Markdown."""
    study, outcomes = plan.study, outcomes_of(ones)
    lines = [
        f"# {sweep.name}",
        "",
        f"{study.budget} a training, {study.seeds} seeds; ± is their standard deviation, in brackets 95 % intervals.",
        "Sizes are chosen on the validation split and told on the test split.",
        "",
    ]
    lines += [f"* {verdict(outcomes, currency, UNITS[currency])}" for currency in CURRENCIES]
    rows = []
    a_byte = {(one.family, one.dim): one.figures["multiply_adds_a_byte"] for one in ones}
    for family, of_one in families(outcomes).items():
        for one in of_one:
            costs = one.costs
            spent = f"{costs['seconds']:.3g} | {costs['multiply_adds']:.3g} | {a_byte[family, one.dim]:,}"
            sizes = f"{costs['parameters']:,.0f} | {costs['stored_bytes']:,.0f}"
            rows.append(f"| {family} | {one.dim} | {one} | {spent} | {sizes} |")
    lines += _table(["family", "dim", "bpb", "s", "multiply-adds", "a byte", "parameters", "stored bytes"], rows)
    rows = []
    for family, of_one in families(outcomes).items():
        slopes = (slope(of_one, currency) for currency in CURRENCIES)
        rows.append(f"| {family} | " + " | ".join("–" if one is None else str(one) for one in slopes) + " |")
    title = "bpb for each doubling of a cost, with its 95 % interval:"
    lines += _table(["family", *CURRENCIES.values()], rows, title)
    lines += _rates(plan, sweep)
    wall = sum(one.trial.seconds or 0.0 for one in ones)
    counts = Counter(told(one.trial.state) for one in ones)
    ended = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines += ["", f"{len(ones)} trainings ({ended or 'none'}), {human_seconds(wall)} by the clock, all added up."]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[str], title: str | None = None) -> list[str]:
    """Nothing where there is no row."""
    if not rows:
        return []
    above = [] if title is None else [title, ""]
    return ["", *above, f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows]


def _rates(plan: StudyPlan, sweep: Sweep) -> list[str]:
    """The search of the rates as a table; where it was made at the largest size, too, whether the rule holds."""
    study, tried = plan.study, sweep.configurations()
    searched = dict.fromkeys((study.sizes[0], study.sizes[-1])) if study.transfer else study.sizes[:1]
    rows = []
    for family in study.families:
        for dim in searched:
            try:
                best = plan.best(tried, family, dim)
            except Wait:
                continue
            found = (plan.find(tried, plan.values(family, dim, rate)) for rate in study.rates)
            bits = (one.trials[0].bpb if one else None for one in found)
            bits_told = " | ".join("–" if value is None else f"{value:.3f}" for value in bits)
            edge = len(study.rates) > 1 and best in (min(study.rates), max(study.rates))
            rows.append(
                f"| {family} | {dim} | {bits_told} | {'none' if best is None else show(best)}{', an end' * edge} |"
            )
    title = "Validation bpb at multiples of the preset's rate, as it is at the smallest size:"
    return _table(["family", "dim", *(show(rate) for rate in study.rates), "best"], rows, title)


def show_text(folder: RunFolder) -> str:
    """What conclude wrote."""
    return (folder.path / TEXT).read_text(encoding="utf-8")
