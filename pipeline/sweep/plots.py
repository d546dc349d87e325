"""The pictures of a sweep: bits per byte by field, parallel coordinates, Pareto front, learning curves, importance."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.sweep.report import pareto_front
from pipeline.sweep.sampler import Seen, study_of
from pipeline.sweep.space import Choices, Dimension, Value, show
from pipeline.sweep.sweep import Configuration, Sweep, ranked
from pipeline.sweep.trial import Trial, bytes_per_step, validations

_COLOUR = {"finished": "tab:blue", "pruned": "tab:orange", "running": "tab:gray"}
_MARKER = {"finished": "o", "pruned": "v", "running": "s"}
_FEWEST = 4
"""Configurations that Optuna needs before it can tell fields that matter from chance at all."""


def draw_sweep(sweep: Sweep, folder: Path, say: Callable[[str], None]) -> None:
    """Write the pictures that the results allow into the folder; say which there cannot be."""
    folder.mkdir(exist_ok=True)
    found = [one for one in ranked(sweep.configurations()) if one.bpb is not None and one.state in _COLOUR]
    if not found:
        return
    _by_field(sweep, found, folder / "fields.png")
    _curves(sweep, folder / "curves.png")
    _pareto(sweep, found, folder / "pareto.png")
    if len(sweep.space) > 1:
        _parallel(sweep, found, folder / "parallel.png")
    missing = _importance(sweep, folder / "importance.png")
    if missing:
        say(f"no picture of the importance of fields: {missing}")


def _by_field(sweep: Sweep, found: list[Configuration], path: Path) -> None:
    """Bits per byte against each searched field."""
    columns = min(3, len(sweep.space))
    figure, axes = _figure(-(-len(sweep.space) // columns), columns, f"{sweep.name}: validation bits per byte by field")
    for axis, dimension in zip(axes.flat, sweep.space):
        scale = _scale(axis, dimension)
        for state in _COLOUR:
            chosen = [one for one in found if one.state == state]
            if chosen:
                axis.errorbar(
                    [scale(one.values[dimension.field]) for one in chosen],
                    [one.bpb for one in chosen],
                    yerr=[one.spread or 0.0 for one in chosen] if sweep.config.search.seeds > 1 else None,
                    fmt=_MARKER[state],
                    color=_COLOUR[state],
                    label=_label(state),
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


def _parallel(sweep: Sweep, found: list[Configuration], path: Path) -> None:
    """One line a configuration through all its values, coloured by bits per byte."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = _figure(1, 1, f"{sweep.name}: configurations", width=2.4 * (len(sweep.space) + 1) + 2)
    axis = axes[0, 0]
    numbers = [one.bpb for one in found if one.bpb is not None]
    colours: Any = ScalarMappable(Normalize(min(numbers), max(numbers)), colormaps["viridis"])
    heights = [_height(dimension) for dimension in sweep.space]
    places = range(len(sweep.space) + 1)
    spread = (max(numbers) - min(numbers)) or 1.0
    for one in reversed(found):
        ys = [height(one.values[dimension.field]) for height, dimension in zip(heights, sweep.space)]
        ys.append(((one.bpb or 0.0) - min(numbers)) / spread)
        whole = one.state == "finished"
        axis.plot(
            places, ys, color=colours.to_rgba(one.bpb), linestyle="-" if whole else ":", linewidth=2 if whole else 1.2
        )
    for place, dimension in enumerate(sweep.space):
        axis.axvline(place, color="0.6", linewidth=0.8)
        for value in _ticks(dimension):
            axis.annotate(
                show(value),
                (place, heights[place](value)),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
    axis.axvline(len(sweep.space), color="0.6", linewidth=0.8)
    axis.set_xticks(list(places), [*(dimension.field for dimension in sweep.space), "bits per byte"])
    axis.set_yticks([])
    axis.set_xlim(-0.1, len(sweep.space) + 0.1)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    figure.colorbar(colours, ax=axis, label="validation bits per byte (dotted: pruned)")
    figure.savefig(path, dpi=120)


def _pareto(sweep: Sweep, found: list[Configuration], path: Path) -> None:
    """Bits per byte against parameters, or time: what each bit costs."""
    name = "seconds" if sweep.config.search.objective == "bpb+time" else "parameters"
    figure, axes = _figure(1, 1, f"{sweep.name}: validation bits per byte by {name}")
    axis = axes[0, 0]
    for state in _COLOUR:
        chosen = [one for one in found if one.state == state and one.mean(name) is not None]
        if chosen:
            axis.plot(
                [one.mean(name) for one in chosen],
                [one.bpb for one in chosen],
                _MARKER[state],
                color=_COLOUR[state],
                label=_label(state),
            )
    finished = [one for one in found if one.state == "finished" and one.mean(name) is not None]
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


def _curves(sweep: Sweep, path: Path) -> None:
    """Validation bits per byte of every trial by bytes seen."""
    figure, axes = _figure(1, 1, f"{sweep.name}: learning curves", width=9)
    axis = axes[0, 0]
    best = min((trial for trial in sweep.trials if trial.state == "finished"), key=_bpb, default=None)
    seen: set[str] = set()
    for trial in sweep.trials:
        curve = validations(sweep.folder_of(trial), until=trial.step)
        if not curve or trial.state == "failed":
            continue
        each = bytes_per_step(sweep.config_of(trial))
        label = f"the best: trial {trial.number:02d}" if trial is best else _label(trial.state)
        axis.plot(
            [step * each for step in curve],
            list(curve.values()),
            f"{_MARKER[trial.state]}-",
            color="tab:green" if trial is best else _COLOUR[trial.state],
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


def _importance(sweep: Sweep, path: Path) -> str | None:
    """How much of the results each field decides, as Optuna tells; or why it cannot.

    Judged at the last validation that all trials reached, so that those that were pruned count too.
    """
    import optuna

    curves = {
        one.number: [validations(sweep.folder_of(trial), until=trial.step) for trial in one.trials]
        for one in sweep.configurations()
        if one.state in ("finished", "pruned")
    }
    common = set.intersection(*(set(curve) for several in curves.values() for curve in several)) if curves else set()
    if len(curves) < _FEWEST or not common:
        return f"it takes {_FEWEST} configurations that were validated at the same step, there are {len(curves)}"
    step = max(common)
    history = [
        Seen(values=one.values, state="finished", objectives=(_mean([curve[step] for curve in curves[one.number]]),))
        for one in sweep.configurations()
        if one.number in curves
    ]
    for dimension in sweep.space:
        if len({seen.values[dimension.field] for seen in history}) < 2:
            return f"{dimension.field} took only one value"
    study = study_of(sweep.space, sweep.config.search, history, seed=0, objectives=1)
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    names = list(reversed(shares))
    figure, axes = _figure(1, 1, f"{sweep.name}: importance of fields")
    axis = axes[0, 0]
    bars = axis.barh(names, [shares[name] for name in names], color="tab:blue")
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set_xlim(0, 1.1 * max(shares.values()) or 1)
    axis.set_xlabel(f"share of the variance of bits per byte at step {step}\n(fANOVA, {len(history)} configurations)")
    figure.savefig(path, dpi=120)
    return None


def _scale(axis: Any, dimension: Dimension) -> Callable[[Value], Any]:
    """Set the axis up for the values of a field; gives where a value lies on it."""
    if isinstance(dimension, Choices):
        values = _ordered(dimension)
        axis.set_xticks(range(len(values)), [show(value) for value in values])
        axis.set_xlim(-0.5, len(values) - 0.5)
        return values.index
    if dimension.log:
        axis.set_xscale("log")
    return lambda value: value


def _height(dimension: Dimension) -> Callable[[Value], float]:
    """Where a value lies on its vertical axis, from 0 to 1."""
    if isinstance(dimension, Choices):
        values = _ordered(dimension)
        return lambda value: values.index(value) / max(1, len(values) - 1)
    scale = math.log if dimension.log else float
    low, high = scale(dimension.low), scale(dimension.high)
    return lambda value: (scale(value) - low) / (high - low)  # type: ignore[arg-type]


def _ordered(dimension: Choices) -> list[Value]:
    """Numbers by their size, anything else as it was listed."""
    numbers = [value for value in dimension.values if isinstance(value, int | float)]
    return [*sorted(numbers), *(value for value in dimension.values if value not in numbers)]


def _ticks(dimension: Dimension) -> list[Value]:
    return list(dimension.values) if isinstance(dimension, Choices) else [dimension.low, dimension.high]


def _label(state: str) -> str:
    return {"finished": "finished", "pruned": "pruned, where it stopped", "running": "interrupted"}[state]


def _bpb(trial: Trial) -> float:
    return float("inf") if trial.bpb is None else trial.bpb


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _figure(rows: int, columns: int, title: str, width: float | None = None) -> tuple[Any, Any]:
    # A Figure of its own, without pyplot: no global state, no display needed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width or max(6.5, 4.5 * columns), 3.8 * rows + 0.4), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)
