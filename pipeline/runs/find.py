"""Finding a run by whatever a person calls it; the runs of a storage folder, the trials of its sweeps among them."""

import difflib
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from h2q.errors import UserError, require
from pipeline.config import RUN_WORDS
from pipeline.runs.checkpoint import list_checkpoints, newest_state, read_state
from pipeline.runs.folder import RunFolder, leads_nowhere, note_lost_links, run_folders
from pipeline.runs.state import records_of
from pipeline.shown import note
from pipeline.storage.json_file import read_hint
from pipeline.storage.path import locate

SWEEP = "sweep.json"
"""What makes a folder one of a sweep; the runs in it are its trials."""


@dataclass(frozen=True)
class _Scored:
    """A run that was evaluated: its folder, its lowest validation bits per byte, and on which corpus."""

    folder: RunFolder
    bpb: float
    corpus: str | None
    sha256: str | None


def find_run(reference: str, *, storage: str = "runs") -> RunFolder:
    """The run that `reference` names: a name or a folder of a run, of a trial, or of a sweep (its best trial); an
    MLflow run id noted in one; `latest` (started or resumed last) or `best` (lowest validation bits per byte on the
    corpus of the newest run that was evaluated; a note tells of runs on others).

    Raises: UserError naming the nearest names there are.
    """
    found = look_up(reference, storage)
    if found is None:
        raise unknown(reference, storage)
    return found


def look_up(reference: str, storage: str) -> RunFolder | None:
    """As `find_run`, None where there is no such run."""
    runs = list_runs(storage)
    if reference in RUN_WORDS:
        note_lost_links(locate(storage))
    if reference in RUN_WORDS and runs:
        return _latest(runs) if reference == "latest" else _best(runs)
    for path in (locate(storage) / reference, locate(reference)):
        folder = RunFolder(path)
        if reference and folder.config() is not None:
            return folder
        if reference and (path / SWEEP).exists():
            return _best_trial(folder)
    named = [folder for folder in runs if folder.name == reference]
    if named:
        return named[-1]
    for folder in runs:
        noted = folder.mlflow_run()
        if noted is not None and noted["run_id"] == reference:
            return folder
    return None


def unknown(reference: str, storage: str, also: str = "") -> UserError:
    """What to tell whoever asked for a run that is not there; `also`: where else it was looked for."""
    if lost := leads_nowhere(locate(storage) / reference):
        return UserError(lost)
    names = [folder.name for folder in list_runs(storage)]
    near = difflib.get_close_matches(reference, names, n=3, cutoff=0.3) or names[-3:]
    there = f"nearest: {', '.join(near)}" if near else "there are no runs"
    return UserError(f"no run is called {reference!r} in {locate(storage)}{also}; {there}")


def list_runs(storage: str) -> list[RunFolder]:
    """The runs in a storage folder and the trials of the sweeps there, the one that was last started or resumed at the
    end."""
    folder = locate(storage)
    return run_folders(folder, *(sweep.parent for sweep in folder.glob(f"*/{SWEEP}")))


def sweep_of(folder: RunFolder) -> Path | None:
    """The folder of the sweep that a run is a trial of, None for any other run."""
    parent = folder.path.parent
    return parent if (parent / SWEEP).exists() else None


def best_bpb(folder: RunFolder) -> float:
    """The lowest validation bits per byte of the run's `records_of`, infinity before its first evaluation."""
    scored = (record.get("validation/bpb", math.inf) for record in records_of(folder))
    return min(filter(math.isfinite, scored), default=math.inf)


def corpus_of(folder: RunFolder) -> tuple[str | None, str | None]:
    """Name and sha256 of the run's corpus, as its summary or its newest checkpoint has them; None where nothing does.

    Raises: UserError for a checkpoint whose state is damaged.
    """
    summary = folder.summary()
    if summary is not None and summary.get("corpus_sha256"):
        return summary.get("corpus"), summary["corpus_sha256"]
    for path in list_checkpoints(folder.checkpoints):
        with suppress(FileNotFoundError):
            return None, read_state(path).get("corpus_sha256")
    return None, None


def _latest(runs: list[RunFolder]) -> RunFolder:
    """The newest run whose config can be read."""
    for folder in reversed(runs):
        try:
            folder.config()
            return folder
        except UserError as error:
            note(f"{folder.name} is passed over: {error}")
    raise _unreadable(runs)


def _best(runs: list[RunFolder]) -> RunFolder:
    """The best of the runs that can be read; a note tells of those that cannot, and of those on another corpus.

    Raises: UserError if none can, or none was evaluated.
    """
    scored, damaged = [], 0
    for folder in runs:
        try:
            folder.config()
            scored.append(_Scored(folder, best_bpb(folder), *corpus_of(folder)))
        except UserError as error:
            damaged += 1
            note(f"{folder.name} is passed over: {error}")
    if damaged == len(runs):
        raise _unreadable(runs)
    scored = [one for one in scored if math.isfinite(one.bpb)]
    require(bool(scored), f"none of {len(runs)} runs was evaluated yet: name one, or say latest")
    newest = scored[-1]
    rivals = [one for one in scored if one.sha256 == newest.sha256]
    if others := len(scored) - len(rivals):
        corpus = f"{newest.corpus or 'the corpus'} ({(newest.sha256 or 'unknown')[:16]})"
        note(f"best of the runs on {corpus}, as the newest; {others} on other corpora cannot be compared with them")
    for one in sorted(rivals, key=lambda one: one.bpb):
        try:
            newest_state(one.folder.checkpoints)
            return one.folder
        except UserError as error:
            note(f"{one.folder.name} is passed over: {error}")
    raise _unreadable(runs)


def _best_trial(sweep: RunFolder) -> RunFolder:
    """The trial that the sweep calls its best, else the best so far."""
    result = read_hint(sweep.summary_file, dict, "the best of its trials is looked for") or {}
    best = result.get("best")
    name = best.get("run") if isinstance(best, dict) else None
    trials = run_folders(sweep.path)
    require(bool(trials), f"the sweep {sweep.name} has no trial yet")
    named = [trial for trial in trials if trial.name == name]
    return named[0] if named else _best(trials)


def _unreadable(runs: list[RunFolder]) -> UserError:
    return UserError(f"none of the {len(runs)} runs can be read: see above")
