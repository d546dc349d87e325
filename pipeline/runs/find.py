"""Finding a run by whatever a person calls it."""

import difflib
import math

from h2q.errors import UserError, require
from pipeline.runs.checkpoint import newest_state
from pipeline.runs.folder import RunFolder, run_folders
from pipeline.runs.journal import read_journal
from pipeline.shown import note
from pipeline.storage.path import locate


def find_run(reference: str, *, storage: str = "runs") -> RunFolder:
    """The run that `reference` names: a name or a folder of a run, an MLflow run id noted in one, `latest` (started
    last) or `best` (lowest validation bits per byte).

    Raises: UserError naming the nearest names there are.
    """
    found = look_up(reference, storage)
    if found is None:
        raise unknown(reference, storage)
    return found


def look_up(reference: str, storage: str) -> RunFolder | None:
    """As `find_run`, None where there is no such run."""
    runs = list_runs(storage)
    if reference in ("latest", "best") and runs:
        return runs[-1] if reference == "latest" else _best(runs)
    for folder in (RunFolder(locate(storage) / reference), RunFolder(locate(reference))):
        if reference and folder.config() is not None:
            return folder
    for folder in runs:
        noted = folder.mlflow_run()
        if noted is not None and noted["run_id"] == reference:
            return folder
    return None


def unknown(reference: str, storage: str, also: str = "") -> UserError:
    """What to tell whoever asked for a run that is not there; `also`: where else it was looked for."""
    names = [folder.name for folder in list_runs(storage)]
    near = difflib.get_close_matches(reference, names, n=3, cutoff=0.3) or names[-3:]
    there = f"nearest: {', '.join(near)}" if near else "there are no runs"
    return UserError(f"no run is called {reference!r} in {locate(storage)}{also}; {there}")


def list_runs(storage: str) -> list[RunFolder]:
    """The runs in a storage folder, in the order of their start."""
    return run_folders(locate(storage))


def best_bpb(folder: RunFolder) -> float:
    """The lowest validation bits per byte that the run has reached, infinity before its first evaluation."""
    return min((record.get("validation/bpb", math.inf) for record in read_journal(folder.journal)), default=math.inf)


def _best(runs: list[RunFolder]) -> RunFolder:
    """The best of the runs that can be read; a note tells of those that cannot. Raises: UserError if none can."""
    whole: dict[float, RunFolder] = {}
    for folder in runs:
        try:
            folder.config()
            newest_state(folder.checkpoints)
            whole.setdefault(best_bpb(folder), folder)
        except UserError as error:
            note(f"{folder.name} is passed over: {error}")
    require(bool(whole), f"none of the {len(runs)} runs can be read: see above")
    return whole[min(whole)]
