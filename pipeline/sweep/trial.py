"""A trial of a sweep: an ordinary run in a folder of its own, and what the sweep notes of it in trial.json."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from h2q.baselines import parameters
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record, read_journal
from pipeline.runs.load import run_config
from pipeline.shown import presentable
from pipeline.storage.json_file import shape_of
from pipeline.sweep.space import Values

State = Literal["running", "finished", "pruned", "failed"]
Told = Literal["interrupted", "finished", "pruned", "failed"]

_FILE = "trial.json"


def told(state: State) -> Told:
    """The state of a trial that does not run now, as people read it: one that has not ended was interrupted."""
    return "interrupted" if state == "running" else state


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of one configuration with one seed."""

    number: int
    """From 1, in the order of their start."""
    configuration: int
    """From 1; the seeds of a configuration share it."""
    draw: int
    """Which draw of the search gave the values."""
    seed: int
    """Of its training."""
    values: Values
    state: State = "running"
    """`running` also of one that was interrupted and will go on; `pruned`: stopped early by the scheduler."""
    step: int | None = None
    """The last step, or the one at which it was pruned."""
    bpb: float | None = None
    """Validation bits per byte at that step."""
    parameters: int | None = None
    rank: int | None = None
    """At that step."""
    bytes_per_second: float | None = None
    seconds: float | None = None
    """Of training up to that step, over all its starts, without evaluation and saving."""
    error: str | None = None
    """Why it failed."""

    def save(self, folder: RunFolder) -> None:
        folder.write(_FILE, asdict(self))

    def ended(self, state: State, folder: RunFolder, *, step: int | None = None, error: str | None = None) -> "Trial":
        """This trial with its results, as the journal has them up to the step (None: to its end)."""
        records = [record for record in read_journal(folder.journal) if step is None or record["step"] <= step]
        latest: Record = {}
        for record in records:
            latest |= record
        return replace(
            self,
            state=state,
            step=latest.get("step"),
            bpb=latest.get("validation/bpb"),
            parameters=parameters(run_config(folder).model),
            rank=latest.get("growth/rank"),
            bytes_per_second=latest.get("bytes_per_second"),
            seconds=latest.get("seconds"),
            error=error and presentable(error),
        )


def read_trial(folder: RunFolder) -> Trial | None:
    """The trial in the folder, None if there is none."""
    trial = folder.read(_FILE, shape_of(Trial, complete=True))
    return None if trial is None else Trial(**trial)


def read_trials(sweep: RunFolder) -> list[Trial]:
    """The trials in the folder of a sweep, by their number."""
    trials = [read_trial(RunFolder(path.parent)) for path in sweep.path.glob(f"*/{_FILE}")]
    return sorted((trial for trial in trials if trial), key=lambda trial: trial.number)


def validations(folder: RunFolder, *, until: int | None = None) -> dict[int, float]:
    """Validation bits per byte by step."""
    return {
        record["step"]: record["validation/bpb"]
        for record in read_journal(folder.journal)
        if "validation/bpb" in record and (until is None or record["step"] <= until)
    }
