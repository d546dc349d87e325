"""A sweep: its folder, its trials, and which one comes next. All of it is in files, so that any start can go on.

runs/SWEEP/
    sweep.json      preset, command, search and every option that the trials have in common
    skipped.json    draws that were no valid configuration, and why
    SWEEP-01/ …     a trial: the folder of a run, and trial.json
    table.csv       the result, when it has ended
    plots/          bpb by field, parallel coordinates, Pareto front, learning curves, importance
    mlflow.json     the parent run
"""

import shlex
from collections.abc import Callable
from dataclasses import replace

from pipeline.cli import options_of
from pipeline.config import RunConfig, new_run
from pipeline.runs.folder import RunFolder
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.configuration import Configuration
from pipeline.sweep.plan import Next, Plan
from pipeline.sweep.search import Search
from pipeline.sweep.space import Space, configure, parse_space
from pipeline.sweep.trial import Trial, read_trials


class Sweep:
    """The trials so far, and the next one."""

    def __init__(
        self,
        folder: RunFolder,
        config: SweepConfig,
        preset: str,
        check: Callable[[RunConfig], None],
        plan: Plan | None = None,
    ) -> None:
        """`folder` need not exist before the first trial starts. `check` raises UserError for a config that the corpus,
        or the machine, is too small for. `plan`: what chooses the trials; None: the search of the space."""
        self.folder = folder
        self.config = config
        self.preset = preset
        self.space: Space = parse_space(config.search.space)
        self.plan: Plan = plan or Search(folder, config, check)
        self.trials = read_trials(folder)
        self._interrupted = [trial for trial in self.trials if trial.state == "running"]

    @property
    def name(self) -> str:
        return self.folder.name

    def folder_of(self, trial: Trial) -> RunFolder:
        return RunFolder(self.folder.path / f"{self.name}-{trial.number:02d}")

    def config_of(self, trial: Trial) -> RunConfig:
        """The run of a trial."""
        config = as_trial(configure(self.config.run, trial.values), self.config)
        training = replace(config.training, seed=trial.seed)
        tracking = replace(config.tracking, register=None)
        storage = str(self.folder.path)
        own = {"name": None, "resume": False, "address": None}  # A trial is trained where the sweep has put it.
        return replace(config, **own, storage=storage, training=training, tracking=tracking)

    def configurations(self) -> list[Configuration]:
        """All that were tried, in their order."""
        groups: dict[int, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(trial.configuration, []).append(trial)
        return [Configuration(number, trials[0].values, trials) for number, trials in sorted(groups.items())]

    def next(self) -> Trial | None:
        """The trial to start: one that was interrupted, or what the plan wants; None behind the last. Raises: Wait."""
        if self._interrupted:
            return self._interrupted.pop(0)
        wanted = self.plan.next(self)
        return wanted and self._start(wanted)

    def update(self, trial: Trial) -> None:
        """Note what became of a trial."""
        trial.save(self.folder_of(trial))
        self.trials[trial.number - 1] = trial

    def _start(self, wanted: Next) -> Trial:
        trial = Trial(
            number=len(self.trials) + 1,
            configuration=wanted.configuration,
            draw=wanted.draw,
            seed=self.config.run.training.seed + wanted.seed,
            values=wanted.values,
        )
        self.trials.append(trial)
        folder, config = self.folder_of(trial), self.config_of(trial)
        folder.path.mkdir(exist_ok=True)
        command = train_command(config, self.preset)
        folder.note_config(self.preset, command, config)
        trial.save(folder)
        return trial


def grace_steps(config: RunConfig, sweep: SweepConfig) -> int:
    """Steps that every trial gets before ASHA decides; it evaluates as often as that."""
    if sweep.search.scheduler == "none":
        return config.training.steps
    return max(1, int(sweep.search.grace * config.training.steps))


def as_trial(config: RunConfig, sweep: SweepConfig) -> RunConfig:
    """The config as a trial trains it: evaluated where ASHA decides."""
    every = min(config.training.evaluate_every, grace_steps(config, sweep))
    return replace(config, training=replace(config.training, evaluate_every=every))


def train_command(config: RunConfig, preset: str) -> str:
    """The command line that trains a configuration as a run of its own."""
    tracking = replace(config.tracking, register=None)
    default = new_run(preset)
    run = replace(config, name=None, resume=False, storage=default.storage, tracking=tracking)
    return f"python jobs/train.py {shlex.join([preset, *options_of(run, default)])}"
