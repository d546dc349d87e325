"""Measure what the README states: `python jobs/benchmark.py WHAT [--options]`; a table, and JSON in benchmarks/."""

import importlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from h2q.errors import require
from pipeline.cli import parse, quiet_profiler, run

BENCHMARKS = {
    "model": "pipeline.benchmark.model",
    "gpu": "pipeline.benchmark.gpu",
    "memory": "pipeline.benchmark.memory",
    "data": "pipeline.benchmark.data",
    "generate": "pipeline.benchmark.generate",
    "quality": "pipeline.benchmark.quality",
    "mixers": "pipeline.benchmark.mixers",
    "train": "pipeline.benchmark.train",
}
"""Name → module with a frozen dataclass `Options` and `run(options) -> dict` whose `rows` make the table."""

FOLDER = Path("benchmarks")


def main(args: Sequence[str]) -> None:
    """Run one benchmark."""
    names = ", ".join(BENCHMARKS)
    if not args or args[0] in ("-h", "--help"):
        print("usage: python jobs/benchmark.py WHAT [--options]\n")
        print(f"WHAT is one of {names}; WHAT --help lists its options.")
        return
    what = args[0]
    require(what in BENCHMARKS, f"no benchmark is called {what}; there are {names}")
    quiet_profiler()
    module = importlib.import_module(BENCHMARKS[what])
    options = parse(module.Options, args[1:], default=module.Options(), prog=f"jobs/benchmark.py {what}")
    from pipeline.benchmark.timing import machine

    result = {"machine": machine(), **module.run(options)}
    show(what, result)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


def show(what: str, result: dict[str, Any]) -> None:
    """The rows as a table, every other plain value below it."""
    from rich.table import Table

    from pipeline.terminal import new_console

    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    table = Table(title=what, caption=machine, caption_justify="left")
    for column in result["rows"][0]:
        table.add_column(column, justify="left" if isinstance(result["rows"][0][column], str) else "right")
    for row in result["rows"]:
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console = new_console()
    console.print(table)
    for name, value in result.items():
        if name not in ("rows", "machine", "seconds", "model", "runs"):
            console.print(f"{name}: {value}")


if __name__ == "__main__":
    run(main)
