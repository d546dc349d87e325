"""Train a model: `python jobs/train.py [PRESET] [--option value …]`."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.cli import parse, parse_known, quiet_profiler, run
from pipeline.cluster.submitted import check_lasting, placed
from pipeline.config import PRESETS, RunConfig, describe_presets, new_run, split_preset
from pipeline.runs.folder import check_storage, find_folder
from pipeline.runs.load import run_config
from pipeline.storage.path import text_of
from pipeline.threads import wait_asleep_where_busy

PROG = "python jobs/train.py"


def main(args: Sequence[str]) -> int:
    from pipeline.terminal import new_console

    preset, config = configure(args)
    console = new_console()
    if config.estimate:
        quiet_profiler()
        wait_asleep_where_busy()
        from pipeline.cluster.resources import local_resources
        from pipeline.prepare.prepare import split_sizes
        from pipeline.training.estimate import estimate, show
        from pipeline.training.precision import chosen_precision

        gpu = local_resources(config.use_gpu).gpu
        config = replace(config, precision=chosen_precision(config.precision, gpu=gpu, say=console.print))
        sizes = split_sizes(config.corpus)
        show(estimate(config), config, console, sizes)
        return 0
    if config.profile:
        quiet_profiler()
    from pipeline.training.driver import train
    from pipeline.training.fit import TrainingFailed

    try:
        summary, folder, stopping = train(config, preset=preset, command=f"{PROG} {shlex.join(args)}", console=console)
    except TrainingFailed as error:
        print(f"error: training failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    summary.show(console, folder.path)
    return stopping.exit_code if summary.status == "stopped" else 0


def configure(args: Sequence[str]) -> tuple[str, RunConfig]:
    """The preset's name and the config of the run; with --resume, both as the run had them, over which options go.

    Raises: UserError naming the option and the value.
    """
    named, options = split_preset(args)
    preset = named or next(iter(PRESETS))
    from pipeline.training.origin import begin, check_preset, check_resumes

    resumed = parse_known(_Resumed, options)
    if not resumed.resume:
        return begin(named, preset, options, partial(_parse, options), new_run(preset))
    check_resumes(options)
    RunConfig(name=resumed.name)  # a name that breaks the rule
    check_lasting("storage", resumed.storage)
    folder = find_folder(check_storage(resumed.storage), resumed.name)
    stored = folder.config()
    assert stored is not None
    check_preset(named, stored["preset"], folder.name)
    earlier = replace(run_config(folder), name=folder.name, storage=text_of(folder.path.parent), profile=0)
    config = _parse(options, stored["preset"], earlier)
    if config.workers != earlier.workers and config.threads == earlier.threads:
        config = replace(config, threads=None)  # each has other cores now, and the bits differ anyway
    return stored["preset"], replace(config, name=earlier.name, storage=earlier.storage)


@dataclass(frozen=True, kw_only=True)
class _Resumed:
    """The options that name a run to go on with: its own config is what the others go over."""

    resume: bool = False
    name: str | None = None
    storage: str = RunConfig.storage


def _parse(options: Sequence[str], preset: str, default: RunConfig) -> RunConfig:
    config = parse(
        RunConfig,
        options,
        default=default,
        prog=f"{PROG} [PRESET]",
        description=f"Train a model, from raw bytes to a tracked run. Presets:\n\n{describe_presets()}\n\n"
        f"Defaults below are those of {preset}.",
    )
    return placed(config)


if __name__ == "__main__":
    run(main)
