"""Weight families side by side: `python jobs/study.py [PRESET] [--study.option value …] [--option value …]`."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from h2q.errors import UserError
from pipeline.cli import parse, run
from pipeline.cluster.submitted import placed
from pipeline.config import PRESETS, RunConfig, describe_presets, split_preset
from pipeline.study.config import StudyConfig, StudyOptions

PROG = "python jobs/study.py"


def main(args: Sequence[str]) -> int:
    from pipeline.terminal import new_console

    preset, config = configure(args)
    from pipeline.study.driver import study
    from pipeline.study.report import show_text

    console = new_console(width=None if sys.stdout.isatty() else 140)
    try:
        report, folder, stopping = study(config, preset=preset, command=f"{PROG} {shlex.join(args)}", console=console)
    except KeyboardInterrupt:
        print("error: interrupted; --resume goes on with every trial from its last checkpoint", file=sys.stderr)
        return 130
    console.print(show_text(folder), highlight=False, markup=False, soft_wrap=True)
    console.print(f"{folder.path}: study.csv, study.md, plots/study.png", highlight=False, markup=False, soft_wrap=True)
    if stopping.signal is not None and report.counts["interrupted"]:
        console.print(f"\nstopped; continue with {PROG} {folder.to_resume}", highlight=False)
        return stopping.exit_code
    if not report.counts["finished"]:
        print(f"error: no trial finished: {'; '.join(report.errors) or 'none was started'}", file=sys.stderr)
        return 1
    return 0


def configure(args: Sequence[str]) -> tuple[str, StudyConfig]:
    """The preset's name and the config of the study; with --resume, both as the study had them, over which options go.

    Raises: UserError naming the option and the value.
    """
    from pipeline.training.origin import begin, check_resumes

    named, options = split_preset(args)
    preset = named or next(iter(PRESETS))
    if "--resume" in options:
        check_resumes(options)
        return _resumed(named, options, _parse(options, preset, StudyConfig(run=replace(PRESETS[preset], resume=True))))

    def parse_over(preset: str, default: RunConfig) -> StudyConfig:
        return _parse(options, preset, StudyConfig(run=replace(default, local=False, wait=0)))

    return begin(named, preset, options, parse_over, PRESETS[preset])


def _resumed(named: str | None, options: Sequence[str], asked: StudyConfig) -> tuple[str, StudyConfig]:
    from pipeline.study.driver import check_same_study, read_study
    from pipeline.sweep.folder import check_same_search, earlier_sweep

    folder, preset, sweep = earlier_sweep(named, asked.run, job="study")
    study = read_study(folder)
    if study is None:
        raise UserError(f"{folder.path} has lost study.json: start the study anew, under another --name")
    lists = {name: tuple(study["study"][name]) for name in ("families", "sizes", "rates")}
    options_then = StudyOptions.from_dict(study["study"] | lists | {"extend": False})
    earlier = StudyConfig(run=replace(sweep.run, resume=True), study=options_then)
    config = _parse(options, preset, earlier)
    config = replace(config, run=replace(config.run, name=folder.name, storage=str(Path(folder.path).parent)))
    check_same_study(earlier.study, config.study)
    check_same_search(earlier.sweep, replace(config, study=earlier.study).sweep)
    return preset, config


def _parse(options: Sequence[str], preset: str, default: StudyConfig) -> StudyConfig:
    config = parse(
        StudyConfig,
        options,
        default=default,
        prog=f"{PROG} [PRESET]",
        description="Weight families side by side: each at several sizes and seeds, with the same recipe, budget and "
        f"search of the learning rate, on Ray Tune. Presets:\n\n{describe_presets()}\n\n"
        f"Defaults below are those of {preset}.",
    )
    return replace(config, run=placed(config.run))


if __name__ == "__main__":
    run(main)
