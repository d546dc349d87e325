"""A trained model as one file that needs no Python: `python jobs/export.py RUN --to FILE [--format onnx]`."""

from collections.abc import Sequence

from h2q.errors import require
from pipeline.cli import parse, run
from pipeline.export.config import ExportConfig

PROG = "python jobs/export.py"


def main(args: Sequence[str]) -> int:
    """Write the file, and say what it holds and what it cost."""
    options = parse(ExportConfig, args, default=ExportConfig(), prog=PROG)
    require(options.run != "", f"name the run to export: its name or folder, latest, or best: {PROG} RUN --to FILE")
    require(options.to != "", f"name the file to write: {PROG} {options.run} --to FILE")
    from pipeline.evaluation.progress import EvaluationProgress
    from pipeline.export.export import export
    from pipeline.export.report import lines
    from pipeline.terminal import new_console

    console = new_console(highlight=False)
    with EvaluationProgress(console) as progress:
        outcome = export(options, progress)
    for line in lines(outcome):
        console.print(line, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
