"""How a run stands, in one word."""

from pipeline.runs.checkpoint import list_checkpoints, step_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record, read_journal
from pipeline.storage.json_file import read_hint
from pipeline.storage.lock import is_locked
from pipeline.storage.path import UriPath

UNFINISHED = "unfinished"
"""It was killed, or it goes on where nobody here can see it."""


def state_of(folder: RunFolder, records: list[Record]) -> str:
    """finished, stopped, pruned (a trial that its sweep ended early), failed (by an error), running, or unfinished.

    `records`: its journal.
    """
    if not isinstance(folder.lock_file, UriPath) and is_locked(folder.lock_file):
        return "running"
    if (state := _trial(folder).get("state")) in ("pruned", "failed"):
        return state
    if folder.failure_file.exists():
        return "failed"
    return summary["status"] if (summary := ended(folder, records)) else UNFINISHED


def records_of(folder: RunFolder) -> list[Record]:
    """The journal of a run; of a pruned trial up to the step at which its sweep judged it: it trained on meanwhile."""
    records, trial = read_journal(folder.journal), _trial(folder)
    if trial.get("state") == "pruned" and isinstance(step := trial.get("step"), int):
        return [record for record in records if record["step"] <= step]
    return records


def _trial(folder: RunFolder) -> dict:
    """What its sweep notes of it, nothing of a run that is no trial."""
    return read_hint(folder.path / "trial.json", dict, "it is told like any run") or {}


def ended(folder: RunFolder, records: list[Record]) -> dict | None:
    """The summary, unless the run goes on after it was written and is no longer what it says."""
    summary = folder.summary()
    if not summary:
        return None
    logged, steps = records[-1]["step"] if records else 0, summary["steps"]
    if logged == steps:
        return summary
    if summary["status"] != "stopped" or logged > steps:
        return None
    # One that was stopped may have been trained beyond its last record: its checkpoint knows.
    saved = max((step_of(path) for path in list_checkpoints(folder.checkpoints)), default=steps)
    return summary if saved == steps else None
