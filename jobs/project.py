"""Translate the states of a trained run to text: `python jobs/project.py RUN [--projector.last 128] [--option …]`, then
`python jobs/project.py RUN --read FILE --at OFFSET`."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli import run
from pipeline.projector.begin import bound_run, configure
from pipeline.projector.config import DECODER, ProjectionConfig
from pipeline.runs.folder import RunFolder
from pipeline.threads import wait_asleep_where_busy

if TYPE_CHECKING:
    from rich.console import Console

PROG = "python jobs/project.py"


def main(args: Sequence[str]) -> int:
    """Train a projector of the run and judge it, or read a file with one."""
    options, core = configure(args, PROG)
    from pipeline.terminal import new_console

    console = new_console(highlight=False)
    if options.read is None:
        return _train(options, core, f"{PROG} {shlex.join(args)}", console)
    from pipeline.projector.show import show

    show(options, core, console)
    return 0


def _train(options: ProjectionConfig, core: RunFolder, command: str, console: "Console") -> int:
    wait_asleep_where_busy()
    config, corpus_sha256 = bound_run(options, core)
    from pipeline.projector.task import Projection
    from pipeline.training.driver import train
    from pipeline.training.fit import TrainingFailed

    assert config.projector is not None
    try:
        task = Projection(config.projector)
        _, folder, stopping = train(
            config, preset="projector", command=command, console=console, task=task, corpus_sha256=corpus_sha256
        )
    except TrainingFailed as error:
        print(f"error: training failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    if options.judge and stopping.signal is None:
        return _judge(core, folder.name, console) or stopping.exit_code
    return stopping.exit_code


def _judge(core: RunFolder, name: str, console: "Console") -> int:
    from pipeline.projector.judged import judge_projector

    try:
        judge_projector(core, name, console)
    except KeyboardInterrupt:
        again = "--resume" if name == DECODER.name else f"--name {shlex.quote(name)} --resume"
        print(f"error: interrupted while judging; the projector is trained, {again} judges it again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run(main)
