"""A file as the code of a model, and back: `python jobs/compress.py FILE [--run RUN]`, `… --decompress FILE.h2q`."""

from collections.abc import Sequence

from h2q.errors import require
from pipeline.cli import parse, run
from pipeline.compression.config import CompressionConfig

PROG = "python jobs/compress.py"


def main(args: Sequence[str]) -> int:
    """Write the archive, or the file that it holds, and say what that took."""
    options = parse(CompressionConfig, args, default=CompressionConfig(), prog=PROG)
    require(options.file != "", f"name a file: {PROG} FILE, or {PROG} --decompress FILE.h2q")
    from pipeline.compression.compress import compress, decompress
    from pipeline.compression.report import lines
    from pipeline.evaluation.progress import EvaluationProgress
    from pipeline.terminal import new_console

    console = new_console(highlight=False)
    with EvaluationProgress(console) as progress:
        progress.stage("decompressing" if options.decompress else "compressing")
        outcome = (decompress if options.decompress else compress)(options, progress.show)
    for line in lines(outcome, options):
        console.print(line, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
