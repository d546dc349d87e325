"""Search for better options: `python jobs/tune.py [PRESET] [--search.option value …] [--option value …]`."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.cli import parse, run
from pipeline.cluster.submitted import placed
from pipeline.config import PRESETS, RunConfig, describe_presets, split_preset
from pipeline.sweep.config import SweepConfig

PROG = "python jobs/tune.py"


def main(args: Sequence[str]) -> int:
    from pipeline.terminal import new_console

    preset, config = configure(args)
    from pipeline.sweep.driver import tune

    # A file has no width of its own: as wide as the table is.
    console = new_console(width=None if sys.stdout.isatty() else 140)
    try:
        report, folder, stopping = tune(config, preset=preset, command=f"{PROG} {shlex.join(args)}", console=console)
    except KeyboardInterrupt:
        print("error: interrupted; --resume goes on with every trial from its last checkpoint", file=sys.stderr)
        return 130
    report.show(console, folder)
    if stopping.signal is not None and report.counts["interrupted"]:
        console.print(f"\nstopped; continue with {PROG} {folder.to_resume}", highlight=False)
        return stopping.exit_code
    if report.best is None:
        print(f"error: no trial finished: {'; '.join(report.errors) or 'none was started'}", file=sys.stderr)
        return 1
    return 0


def configure(args: Sequence[str]) -> tuple[str, SweepConfig]:
    """The preset's name and the config of the sweep; with --resume, both as the sweep had them, over which options go.

    Raises: UserError naming the option and the value.
    """
    from pipeline.sweep.space import check_keeps_model, parse_space, size

    named, options = split_preset(args)
    preset = named or next(iter(PRESETS))
    from pipeline.training.origin import begin, check_resumes

    if "--resume" in options:
        check_resumes(options)
        preset, config = _resumed(named, options, _parse(options, preset, SweepConfig(run=PRESETS[preset])))
    else:

        def parse_over(preset: str, default: RunConfig) -> SweepConfig:
            trials = replace(default, local=False, wait=0)  # a run in one process may set the example too
            return _parse(options, preset, SweepConfig(run=trials))

        preset, config = begin(named, preset, options, parse_over, PRESETS[preset])
    space = parse_space(config.search.space)
    check_keeps_model(space, config.run)
    if config.search.algorithm == "grid":
        size(space)
    return preset, config


def _resumed(named: str | None, options: Sequence[str], asked: SweepConfig) -> tuple[str, SweepConfig]:
    from pipeline.sweep.folder import check_same_search, earlier_sweep

    folder, preset, earlier = earlier_sweep(named, asked.run, job="tune")
    config = _parse(options, preset, earlier)
    config = replace(config, run=replace(config.run, name=folder.name, storage=str(Path(folder.path).parent)))
    check_same_search(earlier, config)
    return preset, config


def _parse(options: Sequence[str], preset: str, default: SweepConfig) -> SweepConfig:
    config = parse(
        SweepConfig,
        options,
        default=default,
        prog=f"{PROG} [PRESET]",
        description="Search for better options: trials on Ray Tune, ranked by validation bits per byte. What is not "
        f"searched is the same in all of them. Presets:\n\n{describe_presets()}\n\n"
        f"Defaults below are those of {preset}.",
    )
    return replace(config, run=placed(config.run))


if __name__ == "__main__":
    run(main)
