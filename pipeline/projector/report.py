"""A judgement for people and machines: a table, JSON, CSV and a picture, and in MLflow on the core's run."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.columns import narrow
from pipeline.figures import log_numbers, new_figure
from pipeline.projector.judge import CLEAR, Judgement
from pipeline.projector.lens import Depth
from pipeline.shown import cell

JUDGEMENT = "judgement.json"

SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Distances in tables and metrics."""


def curves(found: Judgement, untrained: list[float] | None) -> dict[str, list[float]]:
    """Bits recovered by distance, by what the decoder is given. `untrained`: those of the control that has its own
    projector."""
    named = {name: found.recovered(name) for name in found.last if name != "without"}
    return named | ({"untrained core": untrained} if untrained else {})


def show(found: Judgement, untrained: list[float] | None, name: str, console: Console) -> None:
    """The memory horizon as a table, and what is written freely."""
    named = curves(found, untrained)
    table = _table("bytes back", *named, "bpb without", "freely exact")
    for at in (at for at in SHOWN if at <= len(found.exact)):
        bits = [f"{curve[at - 1]:+.2f}" if at <= len(curve) else "–" for curve in named.values()]
        table.add_row(str(at), *bits, f"{found.last['without'][at - 1]:.2f}", f"{found.exact[at - 1]:.0%}")
    console.print()
    console.print(f"[bold]{cell(name)}: bits recovered by distance[/bold]", soft_wrap=True)
    console.print(table)
    console.print(f"{_horizon(found)}; {found.moments:,} moments")
    for n, error in found.error_rate.items():
        share = sum(found.exact[:n]) / n
        console.print(
            f"the last {n} written freely: {share:.1%} of the bytes exact, all of them in {found.all_exact[n]:.1%} of "
            f"the moments, {error:.3f} edits a byte",
            markup=False,
        )


def _horizon(found: Judgement) -> str:
    if not found.remembers:
        return (
            f"of the last byte {found.recovered()[0]:+.2f} bits are recovered: less than {CLEAR}, or no more than by a "
            "control, so there is no half-point"
        )
    half = found.half_point
    back = f"{half} bytes back" if half else f"farther back than {len(found.exact)} bytes"
    return f"half of the bits of the last byte are left {back}"


def show_lens(depths: list[Depth], console: Console) -> None:
    """At which depth the next byte becomes known."""
    table = _table("behind block", "bits per byte", "bits from output")
    for depth in depths:
        table.add_row(str(depth.block), f"{depth.bpb:.3f}", f"{depth.divergence:.3f}")
    console.print()
    console.print("[bold]the next byte, by a tuned lens, and how far that is from the core's output[/bold]")
    console.print(table)


def _table(*names: str) -> Table:
    """With all of them a terminal of 60 columns has room."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(narrow(name), justify="right", no_wrap=True)
    return table


def metrics(found: Judgement, untrained: list[float] | None, name: str) -> dict[str, float]:
    """For MLflow."""
    named = {
        f"{name}/recovered/{which.replace(' ', '_')}/{at:04d}_back": curve[at - 1]
        for which, curve in curves(found, untrained).items()
        for at in SHOWN
        if at <= len(curve)
    }
    exact = {f"{name}/exact_of_last_{n}": sum(found.exact[:n]) / n for n in found.error_rate}
    errors = {f"{name}/error_rate_of_last_{n}": rate for n, rate in found.error_rate.items()}
    half = {} if found.half_point is None else {f"{name}/half_point": float(found.half_point)}
    return named | exact | errors | half


def write(
    found: Judgement, untrained: list[float] | None, depths: list[Depth], about: dict[str, Any], folder: Path
) -> list[Path]:
    """judgement.json, and tables and pictures of the horizon and of the lens, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in (JUDGEMENT, "horizon.csv", "horizon.png", "lens.csv", "lens.png")]
    named, lens = curves(found, untrained), [asdict(depth) for depth in depths]
    more = {"lens": lens, "half_point": found.half_point, "recovered": named}
    files[0].write_text(json.dumps(about | asdict(found) | more, indent=1))
    with files[1].open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(
            ["bytes_back", *(f"recovered: {name}" for name in named), *(f"bpb: {name}" for name in found.last), "exact"]
        )
        for at in range(len(found.exact)):
            recovered = [curve[at] if at < len(curve) else "" for curve in named.values()]
            rows.writerow([at + 1, *recovered, *(bits[at] for bits in found.last.values()), found.exact[at]])
    _draw(found, named, files[2], about["name"])
    with files[3].open("w", newline="") as table:
        lines = csv.DictWriter(table, list(lens[0]))
        lines.writeheader()
        lines.writerows(lens)
    _draw_lens(depths, files[4], about["name"])
    return files


def _draw_lens(depths: list[Depth], path: Path, title: str) -> None:
    figure, axes = new_figure(1, 2, f"{title}: the next byte, by a tuned lens")
    blocks = [str(depth.block) for depth in depths]
    for axis, name, values in zip(
        axes.flat,
        ("bits per byte", "bits from the core's output"),
        ([depth.bpb for depth in depths], [depth.divergence for depth in depths]),
        strict=True,
    ):
        axis.bar(blocks, values, width=0.5)
        axis.set_xlabel("behind block")
        axis.set_ylabel(name)
    figure.savefig(path, dpi=120)


def _draw(found: Judgement, named: dict[str, list[float]], path: Path, title: str) -> None:
    figure, axes = new_figure(1, 2, title)
    horizon, freely = axes.flat
    for name, curve in named.items():
        style: dict[str, Any] = {"linestyle": "--", "alpha": 0.7}
        if name in ("carried", "reset"):  # often the same: both are to be seen
            style = {"linewidth": 3.0} if name == "carried" else {"color": "black", "linestyle": ":"}
        horizon.plot(range(1, len(curve) + 1), curve, label=name, **style)
    if found.half_point:
        horizon.axvline(
            found.half_point, color="0.7", linewidth=1, label=f"half of the last byte's: {found.half_point}"
        )
    horizon.axhline(0, color="0.5", linewidth=1)
    low, high = min(0.0, *named["carried"]), max(0.0, *named["carried"])
    low = max(low - 1.0, min(low, *map(min, named.values())))  # a control far below would flatten the rest
    margin = 0.05 * (high - low or 1.0)
    horizon.set_ylim(low - margin, high + margin)
    horizon.set_ylabel("bits recovered")
    horizon.legend(fontsize=8)
    freely.plot(range(1, len(found.exact) + 1), found.exact)
    freely.set_ylabel("written freely: share of bytes exact")
    freely.set_ylim(0, 1.02)
    for axis in (horizon, freely):
        axis.set_xscale("log")
        log_numbers(axis.xaxis)
        axis.set_xlabel("bytes before the moment")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
