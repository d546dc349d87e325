"""The picture of what each searched field decides, by Optuna's fANOVA."""

from pathlib import Path

from pipeline.sweep.plot_style import sweep_figure
from pipeline.sweep.sampler import Seen, study_of
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.trial import validations

_FEWEST = 4
"""Configurations that Optuna needs before it can tell fields that matter from chance at all."""


def draw_importance(sweep: Sweep, path: Path) -> str | None:
    """How much of the variance of the results each field decides; gives why it cannot be said, if it cannot.

    Judged at the last validation that all trials reached, so that those that were pruned count too.
    """
    import optuna

    history, step, count = _results_at_one_step(sweep)
    if not history:
        return f"it takes {_FEWEST} configurations that were validated at the same step, there are {count}"
    for dimension in sweep.space:
        if len({seen.values[dimension.field] for seen in history}) < 2:
            return f"{dimension.field} took only one value"
    study = study_of(sweep.space, sweep.config.search, history, seed=0, objectives=1)
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    names = list(reversed(shares))
    figure, axes = sweep_figure(1, 1, f"{sweep.name}: importance of fields")
    axis = axes[0, 0]
    bars = axis.barh(names, [shares[name] for name in names], color="tab:blue")
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set_xlim(0, 1.1 * max(shares.values()) or 1)
    axis.set_xlabel(f"share of the variance of bits per byte at step {step}\n(fANOVA, {len(history)} configurations)")
    figure.savefig(path, dpi=120)
    return None


def _results_at_one_step(sweep: Sweep) -> tuple[list[Seen], int, int]:
    """The configurations with their bits per byte at the last step at which all were validated, that step, and how
    many they are; no configurations where there is no such step, or where they are too few."""
    configurations = [one for one in sweep.configurations() if one.state in ("finished", "pruned")]
    curves = [[validations(sweep.folder_of(trial), until=trial.step) for trial in one.trials] for one in configurations]
    steps = [set(curve) for of_one in curves for curve in of_one]
    common = set.intersection(*steps) if steps else set()
    if len(configurations) < _FEWEST or not common:
        return [], 0, len(configurations)
    step = max(common)
    history = [
        Seen(values=one.values, state="finished", objectives=(_mean([curve[step] for curve in of_one]),))
        for one, of_one in zip(configurations, curves)
    ]
    return history, step, len(configurations)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
