"""A comparison as one HTML page that needs nothing else."""

import base64
import html
from pathlib import Path

from pipeline.comparison.compare import Comparison
from pipeline.comparison.compared_run import ComparedRun
from pipeline.comparison.table import grid
from pipeline.shown import printable
from pipeline.storage.uri import write_atomic


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
    """Write the page. Raises: UserError as `write_atomic`."""
    write_atomic(path, page(comparison, png).encode("utf-8", "backslashreplace"))


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
