"""Pictures of an evaluation: where the bits go, and how an online learner comes along."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.figures import new_figure

CONTEXT = "bytes of context (position in the window)"

FEW = 100
"""Bytes at a position below which their mean is noise, and drawn as such."""


def draw_breakdown(
    position_bpb: list[float | None],
    position_bytes: list[int],
    classes: dict[str, tuple[int, float]],
    path: Path,
    title: str,
    place: str = CONTEXT,
) -> None:
    """Bits per byte against the position in the window, which means `place`, and by class of the byte."""
    figure, axes = new_figure(1, 2, title)
    by_position, by_class = axes.flat
    _by_position(by_position, position_bpb, position_bytes)
    by_position.set_xlabel(place)
    _by_class(by_class, classes)
    figure.savefig(path, dpi=120)


def _by_position(axis: Any, bpb: list[float | None], scored: list[int]) -> None:
    """Every position of the window; those of few bytes are paler."""
    found = [(position + 1, rate) for position, rate in enumerate(bpb) if rate is not None]
    few = [(position, rate) for position, rate in found if scored[position - 1] < FEW]
    axis.plot(*zip(*found, strict=True), "." if len(found) < 2 else "-")
    if few:
        axis.plot(*zip(*few, strict=True), ".", color="0.6", label=f"fewer than {FEW} bytes")
        axis.legend(fontsize=8)
    axis.set_ylabel("bits per byte")
    axis.set_xlim(0.5, len(bpb) + 0.5)
    axis.set_ylim(0, 1.1 * max((rate for _, rate in found), default=1))
    axis.grid(alpha=0.3)


def _by_class(axis: Any, classes: dict[str, tuple[int, float]]) -> None:
    total = sum(count for count, _ in classes.values())
    code = sum(bits for _, bits in classes.values())
    rates = [bits / count for count, bits in classes.values()]
    bars = axis.barh(list(classes), rates)
    labels = [f"{count / total:.1%} of bytes, {bits / code:.1%} of code" for count, bits in classes.values()]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_xlim(right=1.75 * max(rates))
    axis.invert_yaxis()
    axis.set_xlabel("bits per byte")


def draw_learning(steps: list[tuple[int, float]], curve: list[dict[str, Any]], path: Path, title: str) -> None:
    """Bits per byte so far against the bytes coded, beside xz of the same bytes; and of the last bytes only."""
    figure, axes = new_figure(1, 1, title)
    axis = axes[0, 0]
    recent = _recent(steps)
    if recent:
        axis.plot(*zip(*recent, strict=True), color="C0", alpha=0.35, label="this learner, last tenth of them")
    axis.plot(*zip(*((count, bits / count) for count, bits in steps), strict=True), "C0", label="this learner")
    beside = [(point["bytes"], point["xz_bpb"]) for point in curve if point["xz_bpb"] is not None]
    if beside:
        axis.plot(*zip(*beside, strict=True), "C1o-", label="xz -9e")
    axis.set_xscale("log")
    axis.set_xlabel("bytes so far")
    axis.set_ylabel("bits per byte so far")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.savefig(path, dpi=120)


def _recent(steps: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Bits per byte of about the last tenth of the bytes, at growing distances."""
    kept = steps[:1]
    for step in steps:
        if step[0] >= 1.1 * kept[-1][0]:
            kept.append(step)
    return [(after[0], (after[1] - before[1]) / (after[0] - before[0])) for before, after in pairwise(kept)]
