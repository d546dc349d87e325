"""A sweep as Ray Tune sees it: a searcher that hands out its trials, and a callback for their stops and losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.search import Searcher

from pipeline.runs.stop import forget_stop, request_stop, stop_wanted
from pipeline.sweep.plan import Wait
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.trial import State, Trial


class Watcher(Protocol):
    """Who wants to know how trials get on."""

    def started(self, trial: Trial) -> None: ...

    def reported(self, trial: Trial, result: dict[str, Any]) -> None: ...

    def ended(self, trial: Trial) -> None: ...


class SweepSearcher(Searcher):
    """Suggests the sweep's next trial and notes how it ended. Tune's own snapshots are neither needed nor read."""

    def __init__(self, sweep: Sweep, watchers: Sequence[Watcher]) -> None:
        super().__init__(metric="validation/bpb", mode="min")
        self._sweep = sweep
        self._watchers = watchers
        self.running: dict[str, Trial] = {}
        """Trials by Tune's own names for them."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            trial = None if stop_wanted(self._sweep.folder.path) else self._sweep.next()
        except Wait:
            return None  # Tune asks again.
        if trial is None:
            return Searcher.FINISHED
        self.running[trial_id] = trial
        folder = self._sweep.folder_of(trial)
        forget_stop(folder.path)
        for watcher in self._watchers:
            watcher.started(trial)
        return {"folder": str(folder.path)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "validation/bpb" in result:
            for watcher in self._watchers:
                watcher.reported(self.running[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error or result is None:
            return  # `TrialWatch` learns why
        if result.get("error"):
            self._end(trial_id, "failed", error=result["error"])
        elif "finished" in result:
            # One that was interrupted counts as running: --resume goes on with it.
            self._end(trial_id, "finished" if result["finished"] else "running")
        else:
            self._end(trial_id, "pruned", step=result["step"])

    def lost(self, trial_id: str, error: Exception | None) -> None:
        """The trial's process has ended by an error of its own."""
        lines = str(error).strip().splitlines() or [""]
        self._end(trial_id, "failed", error=f"its process was lost, {type(error).__name__}: {lines[-1].strip()}")

    def _end(self, trial_id: str, state: State, *, step: int | None = None, error: str | None = None) -> None:
        trial = self.running.pop(trial_id)
        trial = trial.ended(state, self._sweep.folder_of(trial), step=step, error=error)
        self._sweep.update(trial)
        for watcher in self._watchers:
            watcher.ended(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's snapshot, which nobody reads

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is restored from the folders of its trials")


class TrialWatch(Callback):
    """Hands a stop of the sweep on to the trials that run, which save and end by themselves; hears of lost ones."""

    def __init__(self, sweep: Sweep, searcher: SweepSearcher) -> None:
        self._sweep = sweep
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's snapshot, which nobody reads

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if stop_wanted(self._sweep.folder.path):
            for trial in list(self._searcher.running.values()):
                request_stop(self._sweep.folder_of(trial).path)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.lost(trial.trial_id, trial.get_error())
