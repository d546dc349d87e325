"""A comparison for people: a terminal table, a picture of the curves, one HTML page that needs nothing else."""

import base64
import html
import io
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipeline.comparison.compare import RESULTS, ComparedRun, Comparison
from pipeline.figures import new_figure
from pipeline.runs.journal import Record, series
from pipeline.terminal import printable

WIDE = 5
"""More runs than this are the rows of a table, not its columns."""
Grid = list[list[str]]


def grid(comparison: Comparison, mark: str = "{}") -> Grid:
    """The table as text, a header row first: what differs, then results; the best of a result inside `mark`."""
    rows = [["run", *(run.name for run in comparison.runs)], ["status", *(run.status for run in comparison.runs)]]
    rows += [[name, *values] for name, values in comparison.differences.items()]
    for name, readable in RESULTS.items():
        best = comparison.best(name)
        values = [run.results[name] for run in comparison.runs]
        texts = ["–" if value is None else readable(value) for value in values]
        rows.append([name, *(mark.format(text) if value == best else text for text, value in zip(texts, values))])
    return [list(row) for row in zip(*rows)] if len(comparison.runs) > WIDE else rows


def table(comparison: Comparison) -> Table:
    """The grid on a terminal."""
    shown = Table(show_header=True)
    header, *rows = grid(comparison, mark="[bold green]{}[/bold green]")
    for index, name in enumerate(header):
        shown.add_column(escape(name), justify="right" if index else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(cell if cell.startswith("[bold green]") else escape(cell) for cell in row))
    return shown


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
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    return drawn.getvalue()


def page(comparison: Comparison, png: bytes) -> str:
    """One HTML page: no script, nothing loaded from anywhere."""
    header, *rows = grid(comparison, mark="\0{}")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in comparison.notes)
    title = f"{len(comparison.runs)} runs compared"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }}
body {{ max-width: 1200px; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; overflow-wrap: anywhere }}
th:first-child, td:first-child {{ text-align: left; font-weight: 600 }}
.scroll {{ overflow-x: auto }}
.note {{ border-left: 4px solid #d80; padding-left: .75rem }}
b {{ color: #183 }}
img {{ max-width: 100%; background: white }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: .5rem }}
@media (prefers-color-scheme: dark) {{ b {{ color: #5d8 }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{notes}
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p>Fields with the same value in all runs are left out. Bits per byte: lower is better.</p>
<img alt="curves of all runs: bits per byte on training and validation, by bytes and by time"
 src="data:image/png;base64,{base64.b64encode(png).decode()}">
{"".join(_about(run) for run in comparison.runs)}
</body>
</html>
"""


def write_page(comparison: Comparison, png: bytes, path: Path) -> None:
    """Write the page."""
    path.write_text(page(comparison, png), encoding="utf-8")


def _cell(text: str) -> str:
    return f"<td><b>{html.escape(text[1:])}</b></td>" if text.startswith("\0") else f"<td>{html.escape(text)}</td>"


def _about(run: ComparedRun) -> str:
    facts = {
        "command": run.command,
        "corpus": run.corpus and f"{run.corpus}, sha256 {(run.corpus_sha256 or 'unknown')[:16]}",
        "folder": run.folder,
        "MLflow run": run.mlflow_run_id,
    }
    listed = "".join(f"<br>{name}: <code>{html.escape(value)}</code>" for name, value in facts.items() if value)
    sample = f"<pre>{html.escape(printable(run.sample))}</pre>" if run.sample else ""
    return f"<h2>{html.escape(run.name)}</h2><p>{html.escape(run.status)}{listed}</p>{sample}"


def _by_bytes(run: ComparedRun, name: str) -> tuple[list[int], list[float]]:
    steps, values = series(run.records, name)
    return [step * run.bytes_per_step for step in steps], values


def _by_minutes(records: list[Record], name: str) -> tuple[list[float], list[float]]:
    chosen = [record for record in records if name in record]
    return [(record["time"] - records[0]["time"]) / 60 for record in chosen], [record[name] for record in chosen]
