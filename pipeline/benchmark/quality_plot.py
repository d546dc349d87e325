"""The picture of `benchmark quality`: bits per byte against bytes seen, time and parameters."""

from pathlib import Path
from typing import Any


def draw(chosen: dict[str, list[dict[str, Any]]], path: str) -> None:
    """Write the PNG. `chosen`: the runs of each family, one for each seed, with their curves and test bpb."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    seen, spent, size = figure.subplots(1, 3)
    for number, (family, runs) in enumerate(chosen.items()):
        colour = f"C{number}"
        for label, run in zip([family, *[None] * len(runs)], runs):
            bpb = [point["bpb"] for point in run["curve"]]
            seen.plot([point["bytes"] / 1e6 for point in run["curve"]], bpb, color=colour, label=label, alpha=0.8)
            spent.plot([point["seconds"] for point in run["curve"]], bpb, color=colour, label=label, alpha=0.8)
            size.plot(run["parameters"] / 1e3, run["test bpb"], "o", color=colour, alpha=0.6, markersize=9)
    for axis, name in ((seen, "megabytes seen"), (spent, f"seconds {next(iter(chosen.values()))[0]['clock']}")):
        axis.set_xlabel(name)
        axis.set_ylabel("bits per byte, validation split")
    size.set_xlabel("thousands of parameters")
    size.set_ylabel("bits per byte, test split, at the end")
    size.set_xlim(left=0)
    figure.legend(*seen.get_legend_handles_labels(), loc="outside lower center", ncols=len(chosen), frameon=False)
    for axis in (seen, spent, size):
        axis.grid(alpha=0.3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
