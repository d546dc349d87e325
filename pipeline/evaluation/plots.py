"""Pictures of an evaluation: where the bits go, and how an online learner comes along."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.figures import new_figure

FEW = 100
"""A position at which fewer bytes were scored is not drawn: their mean tells nothing."""


def draw_breakdown(
    position_bpb: list[float | None],
    position_bytes: list[int],
    classes: dict[str, tuple[int, float]],
    path: Path,
    title: str,
) -> None:
    """Bits per byte against the position in the window, and by class of the byte."""
    figure, axes = new_figure(1, 2, title)
    by_position, by_class = axes.flat
    few = FEW if max(position_bytes) >= FEW else 1
    drawn = [
        (position + 1, rate)
        for position, (rate, count) in enumerate(zip(position_bpb, position_bytes, strict=True))
        if rate is not None and count >= few
    ]
    by_position.plot(*zip(*drawn, strict=True), "." if len(drawn) < 2 else "-")
    by_position.set_xlabel("bytes of context (position in the window)")
    by_position.set_ylabel("bits per byte")
    by_position.set_ylim(bottom=0)
    by_position.grid(alpha=0.3)
    total = sum(count for count, _ in classes.values())
    code = sum(bits for _, bits in classes.values())
    names, rates = list(classes), [bits / count for count, bits in classes.values()]
    bars = by_class.barh(names, rates)
    told = [f"{count / total:.1%} of bytes, {bits / code:.1%} of code" for count, bits in classes.values()]
    by_class.bar_label(bars, told, padding=3, fontsize=8)
    by_class.set_xlim(right=1.75 * max(rates))
    by_class.invert_yaxis()
    by_class.set_xlabel("bits per byte")
    figure.savefig(path, dpi=120)


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
