"""The pictures of a sweep: bits per byte by field, learning curves, Pareto front; and those of two other modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.figures import log_numbers
from pipeline.sweep.configuration import Configuration, ranked
from pipeline.sweep.importance_plot import draw_importance
from pipeline.sweep.parallel_plot import draw_parallel
from pipeline.sweep.plot_style import COLOUR, LABEL, MARKER, ordered, sweep_figure
from pipeline.sweep.report import pareto_front
from pipeline.sweep.space import Choices, Dimension, Value, show
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.trial import Trial, validations


def draw_sweep(sweep: Sweep, folder: Path, say: Callable[[str], None]) -> None:
    """Write the pictures that the results allow into the folder; say which there cannot be."""
    folder.mkdir(exist_ok=True)
    configurations = [one for one in ranked(sweep.configurations()) if one.bpb is not None and one.state in COLOUR]
    if not configurations:
        return
    _draw_fields(sweep, configurations, folder / "fields.png")
    _draw_curves(sweep, folder / "curves.png")
    _draw_pareto(sweep, configurations, folder / "pareto.png")
    if len(sweep.space) > 1:
        draw_parallel(sweep, configurations, folder / "parallel.png")
    missing = draw_importance(sweep, folder / "importance.png")
    if missing:
        say(f"no picture of the importance of fields: {missing}")


def _draw_fields(sweep: Sweep, configurations: list[Configuration], path: Path) -> None:
    """Bits per byte against each searched field."""
    columns = min(3, len(sweep.space))
    figure, axes = sweep_figure(
        -(-len(sweep.space) // columns), columns, f"{sweep.name}: validation bits per byte by field"
    )
    for axis, dimension in zip(axes.flat, sweep.space):
        scale = _scale(axis, dimension)
        for state in COLOUR:
            chosen = [one for one in configurations if one.state == state]
            if chosen:
                axis.errorbar(
                    [scale(one.values[dimension.field]) for one in chosen],
                    [one.bpb for one in chosen],
                    yerr=[one.spread or 0.0 for one in chosen] if sweep.config.search.seeds > 1 else None,
                    fmt=MARKER[state],
                    color=COLOUR[state],
                    label=LABEL[state],
                    capsize=3,
                )
        axis.set_xlabel(dimension.field)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("bits per byte")
    for axis in axes.flat[len(sweep.space) :]:
        axis.set_visible(False)
    axes.flat[0].legend()
    figure.savefig(path, dpi=120)


def _scale(axis: Any, dimension: Dimension) -> Callable[[Value], Any]:
    """Set the axis up for the values of a field; gives where a value lies on it."""
    if isinstance(dimension, Choices):
        values = ordered(dimension)
        axis.set_xticks(range(len(values)), [show(value) for value in values])
        axis.set_xlim(-0.5, len(values) - 0.5)
        return values.index
    if dimension.log:
        axis.set_xscale("log")
        log_numbers(axis.xaxis, dimension.high / dimension.low)
    return lambda value: value


def _draw_pareto(sweep: Sweep, configurations: list[Configuration], path: Path) -> None:
    """Bits per byte against parameters, or time: what each bit costs."""
    name = "seconds" if sweep.config.search.objective == "bpb+time" else "parameters"
    figure, axes = sweep_figure(1, 1, f"{sweep.name}: validation bits per byte by {name}")
    axis = axes[0, 0]
    for state in COLOUR:
        chosen = [one for one in configurations if one.state == state and one.mean(name) is not None]
        if chosen:
            axis.plot(
                [one.mean(name) for one in chosen],
                [one.bpb for one in chosen],
                MARKER[state],
                color=COLOUR[state],
                label=LABEL[state],
            )
    finished = [one for one in configurations if one.state == "finished" and one.mean(name) is not None]
    front = pareto_front(finished, ("bpb", name))
    marked = sorted((one.mean(name) or 0.0, one.bpb or 0.0) for one in finished if one.number in front)
    if marked:
        axis.step(*zip(*marked), where="post", color="tab:red", linewidth=1)
        axis.plot(*zip(*marked), "o", color="none", markeredgecolor="tab:red", markersize=12, label="Pareto front")
    axis.set_xlabel("seconds of training" if name == "seconds" else "parameters")
    axis.set_ylabel("bits per byte")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def _draw_curves(sweep: Sweep, path: Path) -> None:
    """Validation bits per byte of every trial by bytes seen."""
    figure, axes = sweep_figure(1, 1, f"{sweep.name}: learning curves", width=9)
    axis = axes[0, 0]
    best = min((trial for trial in sweep.trials if trial.state == "finished"), key=_bpb, default=None)
    seen: set[str] = set()
    for trial in sweep.trials:
        curve = validations(sweep.folder_of(trial), until=trial.step)
        if not curve or trial.state == "failed":
            continue
        each = sweep.config_of(trial).bytes_per_step
        label = f"the best: trial {trial.number:02d}" if trial is best else LABEL[trial.state]
        axis.plot(
            [step * each for step in curve],
            list(curve.values()),
            f"{MARKER[trial.state]}-",
            color="tab:green" if trial is best else COLOUR[trial.state],
            linewidth=2.5 if trial is best else 1,
            markersize=4,
            alpha=1 if trial is best else 0.7,
            zorder=3 if trial is best else 2,
            label=None if label in seen else label,
        )
        seen.add(label)
    axis.set_xlabel("bytes seen")
    axis.set_ylabel("validation bits per byte")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def _bpb(trial: Trial) -> float:
    return float("inf") if trial.bpb is None else trial.bpb
