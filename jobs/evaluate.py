"""Evaluate a trained run: `python jobs/evaluate.py RUN [--split test] [--data FILE] [--mode MODE] [--option …]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from h2q.errors import UserError, require
from pipeline.cli import parse, run
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.named import named_run
from pipeline.runs.folder import check_folder
from pipeline.shown import printable
from pipeline.storage.path import UriPath
from pipeline.threads import wait_asleep_where_busy

PROG = "python jobs/evaluate.py"


def main(args: Sequence[str]) -> int:
    """Print the result, write it down, and log it to the run."""
    options = parse(EvaluationConfig, args, default=EvaluationConfig(), prog=PROG)
    folder = named_run(options)
    wait_asleep_where_busy()
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.progress import EvaluationProgress
    from pipeline.evaluation.ray_scoring import ScoringFailed
    from pipeline.evaluation.tracking import log_evaluation
    from pipeline.terminal import new_console

    console = new_console(highlight=False)
    output = options.output and check_folder(options.output, "output")
    require(not isinstance(output, UriPath), f"output must be a folder of this machine, got {output}: name another")
    try:
        with EvaluationProgress(console) as progress:
            evaluation = evaluate(options, folder, progress)
    except ScoringFailed as error:
        print(f"error: scoring failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    evaluation.show(console)
    # matplotlib writes to disks only: a run on a URI leaves its pictures here, and in MLflow.
    kept = folder is not None and isinstance(folder.path, Path)
    beside = folder.evaluations if folder and kept else Path("evaluations").absolute()
    try:
        files = evaluation.write(output or beside)
    except OSError as error:
        place = error.filename or output or beside  # an error of a write names no file
        raise UserError(f"cannot write {place}: {error.strerror}; name a folder with --output") from error
    for path in files:
        console.print(printable(str(path)), markup=False, soft_wrap=True)
    if folder and options.tracking.enabled:
        refused = log_evaluation(folder, options.tracking, evaluation.metrics(), evaluation.step, files)
        console.print(refused or f"logged to MLflow as evaluation/{evaluation.label}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
