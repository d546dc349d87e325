"""The pictures a run leaves: its curves, a map of the energy of every block, and how long each one remembers."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from h2q.alphabet import MARKERS
from pipeline.figures import bytes_axis, log_numbers, new_figure, save_figure
from pipeline.runs.journal import Record, bytes_seen, series
from pipeline.terminal import human_bytes
from pipeline.training.energy import HEALTHY, STEEP, energies, of_blocks, steepness

Series = tuple[list[int], list[float]]

_REFERENCES = {"order0": ("order-0 entropy", ":"), "gzip": ("gzip -9", "--"), "xz": ("xz -9e", "-.")}
_MARGIN = 0.05
"""Of the height of the picture, above and below what matters."""


def draw(
    records: list[Record],
    folder: Path,
    title: str,
    *,
    bytes_per_step: int = 1,
    references: dict[str, float | None] | None = None,
) -> None:
    """Write curves.png, energy.png and, of a model with a state, half_lives.png into the folder.

    `references`: bits per byte that `order0`, `gzip` and `xz` need for the validation split.
    """
    folder.mkdir(exist_ok=True)
    known = {name: bpb for name, bpb in (references or {}).items() if bpb is not None}
    _curves(records, folder / "curves.png", title, bytes_per_step, known)
    _energy_map(records, folder / "energy.png", title)
    _half_lives(records, folder / "half_lives.png", title)


def _curves(records: list[Record], path: Path, title: str, bytes_per_step: int, references: dict[str, float]) -> None:
    """Bits per byte over the bytes seen; small below it what drives them, and the speed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    def at(record: Record) -> int:
        return max(bytes_seen(record, bytes_per_step), bytes_per_step)

    def seen(name: str) -> Series:
        chosen = [record for record in records if name in record]
        return [at(record) for record in chosen], [record[name] for record in chosen]

    # Fixed margins: to find better ones, matplotlib draws everything once more.
    figure = Figure(figsize=(8, 6.5))
    figure.suptitle(title, y=0.985)
    grid = figure.add_gridspec(
        2, 3, height_ratios=(3, 1), left=0.08, right=0.985, top=0.94, bottom=0.04, hspace=0.27, wspace=0.26
    )
    top = figure.add_subplot(grid[0, :])
    kinds = {kind: curve for kind in MARKERS if (curve := seen(f"validation/{kind}/bpb"))[0]}
    _bits(top, seen("train/bpb"), seen("validation/bpb"), seen("test/bpb"), references, kinds)
    axes = [figure.add_subplot(grid[1, column]) for column in range(3)]
    for axis, name in zip(axes, ("learning_rate", "gradient_norm", "bytes_per_second"), strict=True):
        axis.plot(*seen(name), color="C7", linewidth=1)
        axis.set_title(name.replace("_", " "), fontsize=8)
        axis.tick_params(labelsize=7, which="both")
    axes[1].set_yscale("log")
    log_numbers(axes[1].yaxis)
    axes[2].set_ylim(0, 1.1 * max(seen("bytes_per_second")[1], default=1))
    axes[2].yaxis.set_major_formatter(FuncFormatter(lambda rate, _: human_bytes(rate)))
    drawn = [at(record) for record in records]
    for axis in axes:
        bytes_axis(axis, min(drawn, default=1), max(drawn, default=1))
    # Above what matters, a curve only takes width from its end.
    _, highest = top.get_ylim()
    low = [x for name in ("train", "validation") for x, bpb in zip(*seen(f"{name}/bpb"), strict=True) if bpb <= highest]
    bytes_axis(top, min(low, default=1), max(drawn, default=1))
    for axis in (top, *axes):
        axis.grid(alpha=0.3)
    top.set_xlabel("bytes seen")
    save_figure(figure, path)


def _bits(
    axis: Any,
    train: Series,
    validation: Series,
    test: Series,
    references: dict[str, float],
    kinds: Mapping[str, Series],
) -> None:
    """Both curves, of a mix the validation of each kind, the test at their end, and what simple compressors need for
    the validation split."""
    axis.plot(*train, color="C0", alpha=0.5, linewidth=1, label="train, kinds by their lanes" if kinds else "train")
    last = f" {validation[1][-1]:.3f}" if validation[1] else ""
    axis.plot(*validation, "o-", color="C1", markersize=4, label=f"validation{last}")
    if test[1]:
        axis.plot(*test, "*", color="C3", markersize=12, label=f"test {test[1][-1]:.3f}")
        axis.annotate(
            f"test {test[1][-1]:.3f}",
            (test[0][-1], test[1][-1]),
            (5, 12),
            textcoords="offset points",
            ha="right",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
    for name, bpb in references.items():
        label, style = _REFERENCES[name]
        axis.axhline(bpb, color="0.4", linestyle=style, linewidth=1, label=f"{label} {bpb:.3f}")
    axis.set_ylabel("bits per byte")
    for number, (kind, curve) in enumerate(kinds.items()):
        axis.plot(*curve, ".-", color=f"C{4 + number}", linewidth=1, label=f"{kind} {curve[1][-1]:.3f}")
    of_kinds = [bpb for _, values in kinds.values() for bpb in (min(values), median(values))]
    axis.set_ylim(*_range([*train[1], *validation[1], *test[1]], [*references.values(), *of_kinds]))
    axis.legend(fontsize=8, loc="lower left")


def _range(values: list[float], references: list[float]) -> tuple[float | None, float | None]:
    """What matters: from the best to the worst reference, and at least the better half of the values; all of them where
    a run never gets below that reference."""
    if not values:
        return None, None
    lowest = min(*values, *references, values[0])
    highest = max(references, default=max(values))
    highest = max(values) if min(values) > highest else max(highest, median(values))
    margin = _MARGIN * (highest - lowest) or 0.1
    return lowest - margin, highest + margin


def _energy_map(records: list[Record], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    names = of_blocks((name for record in records for name in record), "energy")
    if not names:
        return
    figure = Figure(figsize=(7, 4.2))  # margins as above
    figure.suptitle(title, y=0.985)
    margins = {"left": 0.08, "right": 0.9, "top": 0.84, "bottom": 0.11, "wspace": 0.06}
    axis, scale = figure.subplots(1, 2, width_ratios=(25, 1), gridspec_kw=margins)
    steps, _ = series(records, names[0])
    image = axis.pcolormesh(
        steps, range(len(names)), [series(records, name)[1] for name in names], shading="nearest", cmap="viridis"
    )
    if len(steps) > 1:
        axis.set_xlim(steps[0], steps[-1])
    axis.set_xlabel("step")
    axis.set_ylabel("block")
    axis.set_yticks(range(0, len(names), max(1, len(names) // 12)))
    axis.set_title(_judged([record for record in records if names[0] in record]), fontsize=8, loc="left")
    figure.colorbar(image, cax=scale, label="energy: mean L2 norm of the residual stream")
    save_figure(figure, path)


def _judged(records: list[Record]) -> str:
    """What is healthy, and what this run did."""
    last, third = records[-1], records[len(records) // 3]
    steep, since = steepness(last), energies(last)[-1] / max(energies(third)[-1], 1e-9)
    verdict = "The last block explodes" if steep >= STEEP else "Here"
    return (
        f"{HEALTHY}.\n{verdict}: the last block has {steep:.2g} × the energy of the first, and "
        f"{since:.2g} × what it had after a third of the run."
    )


def _half_lives(records: list[Record], path: Path, title: str) -> None:
    """The median half-life of each block's state by step, and the last one between its outer deciles."""
    names = of_blocks((name for record in records for name in record), "half_life")
    if not names:
        return
    figure, axes = new_figure(1, 2, title)
    over_time, at_last = axes[0]
    for number, name in enumerate(names):
        steps, median = series(records, name)
        shorter, longer = (
            series(records, name.replace("half_life", f"half_life_{tenth}"))[1][-1] for tenth in ("p10", "p90")
        )
        [line] = over_time.plot(steps, median, label=f"block {number}")
        at_last.plot([shorter, longer], [number, number], color=line.get_color(), linewidth=4, alpha=0.4)
        at_last.plot([median[-1]], [number], "o", color=line.get_color())
    over_time.set(xlabel="step", ylabel="median half-life in bytes", ylim=(0, None))
    if len(names) <= 8:
        over_time.legend(fontsize=8)
    at_last.set(xlabel="half-life in bytes: median and outer deciles", ylabel="block", xscale="log")
    log_numbers(at_last.xaxis)
    at_last.set_yticks(range(0, len(names), max(1, len(names) // 12)))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    save_figure(figure, path)
