"""A comparison as a picture: the curves of all runs over one another."""

from typing import Any

from pipeline.comparison.compare import Comparison
from pipeline.comparison.compared_run import ComparedRun
from pipeline.figures import new_figure, png_of
from pipeline.runs.journal import Record, bytes_seen, series


def picture(comparison: Comparison) -> bytes:
    """A PNG with the curves of all runs over one another: training and validation by bytes seen, validation by time,
    and the rank where any grows."""
    from matplotlib import colormaps
    from matplotlib.ticker import EngFormatter

    grows = any(len(set(series(run.records, "growth/rank")[1])) > 1 for run in comparison.runs)
    figure, axes = new_figure(2, 2, None)
    train, validation, by_time, last = axes.flat
    colours = colormaps["tab10" if len(comparison.runs) <= 10 else "turbo"]
    for index, run in enumerate(comparison.runs):
        colour = colours(index if len(comparison.runs) <= 10 else index / (len(comparison.runs) - 1))
        style: dict[str, Any] = {"color": colour, "label": run.name, "linewidth": 1.2}
        train.plot(*_by_bytes(run, "train/bpb"), **style)
        validation.plot(*_by_bytes(run, "validation/bpb"), "o-", markersize=3, **style)
        by_time.plot(*_by_minutes(run.records, "validation/bpb"), "o-", markersize=3, **style)
        last.plot(*_by_bytes(run, "growth/rank" if grows else "bytes_per_second"), **style)
    for axis, title, label in (
        (train, "training, bits per byte", "bytes seen"),
        (validation, "validation, bits per byte", "bytes seen"),
        (by_time, "validation, bits per byte", "minutes since the first step (pauses included)"),
        (last, "rank" if grows else "bytes per second", "bytes seen"),
    ):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        if label == "bytes seen":
            axis.xaxis.set_major_formatter(EngFormatter("B"))
    last.set_ylim(bottom=0)
    figure.legend(*train.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(comparison.runs)))
    return png_of(figure)


def _by_bytes(run: ComparedRun, name: str) -> tuple[list[int], list[float]]:
    chosen = [record for record in run.records if name in record]
    return [bytes_seen(record, run.bytes_per_step) for record in chosen], [record[name] for record in chosen]


def _by_minutes(records: list[Record], name: str) -> tuple[list[float], list[float]]:
    chosen = [record for record in records if name in record]
    return [(record["time"] - records[0]["time"]) / 60 for record in chosen], [record[name] for record in chosen]
