"""A sweep on the terminal: the space before the start, a line for each trial that ends, one live line meanwhile."""

import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from h2q.errors import UserError
from pipeline.shown import cell
from pipeline.sweep.capacity import Capacity
from pipeline.sweep.config import DEFAULT_SPACE
from pipeline.sweep.remaining import Remaining
from pipeline.sweep.search import Search
from pipeline.sweep.space import growth_note
from pipeline.sweep.sweep import Sweep, as_trial, grace_steps
from pipeline.sweep.trial import Trial, told
from pipeline.terminal import Display, human_seconds


class SweepProgress(Display):
    """Says what happens; Tune calls it from a thread of its own."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, total=None)
        self._sweep: Sweep | None = None
        self._said_reasons: set[str] = set()
        self._began = time.monotonic()
        self._running: dict[int, str] = {}
        self._lock = threading.Lock()
        self._remaining: Remaining | None = None
        self._said_whole = False

    def begin(self, sweep: Sweep, capacity: Capacity, sizes: dict[str, int]) -> None:
        """The space and the plan. `sizes`: bytes of the splits."""
        self._sweep = sweep
        searched = isinstance(sweep.plan, Search)
        if searched:
            self._say_search(sweep, capacity, sizes)
        else:
            self.say(f"{sweep.plan}; {capacity}")
        self.say(f"{'sweep' if searched else 'study'} {sweep.folder.path}")
        ended = [trial for trial in sweep.trials if trial.state != "running"]
        if sweep.trials:
            self.say(f"{len(ended)} trials have ended before, {len(sweep.trials) - len(ended)} will go on")
        self._say_skips()
        left = sweep.plan.trials - len(ended)
        self._remaining = Remaining(left, sweep.config.run.training.steps, at_once=capacity.trials)
        self._show()

    def _say_search(self, sweep: Sweep, capacity: Capacity, sizes: dict[str, int]) -> None:
        """The space, and how it is searched."""
        search, run = sweep.config.search, sweep.config.run
        table = Table(title=cell(f"{sweep.name}: search space"), title_justify="left", title_style="bold")
        table.add_column("field")
        table.add_column("values")
        for dimension in sweep.space:
            table.add_row(dimension.field, cell(str(dimension)))
        self._console.print(table)
        usual = search.space == DEFAULT_SPACE
        if usual:
            self.say("no --search.space was given: this one is searched")
        if note := growth_note(sweep.space):
            self.say(note)
        configurations = sweep.plan.trials // search.seeds
        seeds = f" × {search.seeds} seeds" if search.seeds > 1 else ""
        self.say(f"{configurations} configurations{seeds} by {search.algorithm}, seed {search.seed}; {capacity}")
        grace = grace_steps(run, sweep.config)
        if search.scheduler == "asha":
            self.say(
                f"ASHA may stop a trial after {grace} of {run.training.steps} steps, and then at each multiple by "
                f"{search.reduction:g}"
            )
            if grace < run.training.evaluate_every:
                self.say(
                    f"training.evaluate_every is {grace} in trials, not {run.training.evaluate_every}: ASHA decides by "
                    "validations"
                )
        if usual and not sweep.trials:
            self._say_estimate(sweep, capacity, sizes)

    def started(self, trial: Trial) -> None:
        self._say_skips()
        with self._lock:
            self._running[trial.number] = "starting"
        assert self._remaining is not None
        self._remaining.started(trial.number, time.monotonic())
        self._show()

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        with self._lock:
            self._running[trial.number] = f"{result['validation/bpb']:.3f} at step {result['step']}"
        assert self._remaining is not None
        self._remaining.reached(trial.number, result["step"], result["pace"], time.monotonic())
        self._say_left()
        self._show()

    def ended(self, trial: Trial) -> None:
        """A line for the trial."""
        with self._lock:
            self._running.pop(trial.number, None)
        assert self._sweep is not None and self._remaining is not None
        self._remaining.ended(trial.number, time.monotonic())
        state = told(trial.state)
        result = "" if trial.bpb is None else f"  {trial.bpb:.3f} bpb at step {trial.step}"
        result += f", {human_seconds(trial.seconds)} of training" if trial.seconds else ""
        seed = f", seed {trial.seed}" if self._sweep.config.search.seeds > 1 else ""
        why = f"  {trial.error}" if trial.error else ""
        self.say(f"trial {trial.number:02d}  {self._sweep.plan.describe(trial.values)}{seed}  {state}{result}{why}")
        self._say_left()
        self._show()

    def _say_left(self) -> None:
        """Once, as soon as it is known."""
        assert self._remaining is not None
        seconds = self._remaining.seconds()
        if seconds and not self._said_whole:
            self._said_whole = True
            self.say(f"about {human_seconds(seconds)} for the trials that are left, if none is stopped early")

    def _say_estimate(self, sweep: Sweep, capacity: Capacity, sizes: dict[str, int]) -> None:
        """About how long the sweep may take, for who has not chosen what it does."""
        from pipeline.training.estimate import estimate, run_seconds

        self.stage("timing a few steps")
        run = as_trial(sweep.config.run, sweep.config)
        with suppress(UserError):  # a trial will say it
            found = estimate(replace(run, threads=capacity.resources.threads))
            seconds = sum(run_seconds(found, run, sizes)) * sweep.plan.trials / capacity.trials
            self.say(
                f"about {human_seconds(seconds)} if no trial is stopped early, as a few steps timed here say; Ctrl-C "
                "stops, --resume goes on"
            )

    def _say_skips(self) -> None:
        assert self._sweep is not None
        for skip in self._sweep.plan.skipped:
            if skip.reason not in self._said_reasons:
                self._said_reasons.add(skip.reason)
                self.say(f"skipped   {self._sweep.plan.describe(skip.values)}: {skip.reason}")

    def _show(self) -> None:
        assert self._sweep is not None
        ended = [trial for trial in self._sweep.trials if trial.state != "running"]
        finished = [trial.bpb for trial in ended if trial.state == "finished" and trial.bpb is not None]
        with self._lock:
            running = ", ".join(f"{number:02d}: {text}" for number, text in sorted(self._running.items()))
        best = f"  best {min(finished):.3f} bpb" if finished else ""
        passed = human_seconds(time.monotonic() - self._began)
        seconds = self._remaining.seconds() if self._remaining else None
        left = "" if seconds is None else f"  ETA {human_seconds(seconds)}"
        self._bar.update(
            self._task,
            total=self._sweep.plan.trials,
            completed=len(ended),
            description=f"{len(ended)} of {self._sweep.plan.trials} trials",
            status=f"{running}{best}  {passed}{left}",
        )
