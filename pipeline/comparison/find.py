"""Finding the runs to compare: by whatever a person calls them, or all of an MLflow experiment."""

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from h2q.errors import UserError, require
from pipeline.comparison.compared_run import ComparedRun, from_folder, from_mlflow, is_training
from pipeline.config import TrackingConfig
from pipeline.runs.find import list_runs
from pipeline.runs.folder import RunFolder
from pipeline.shown import note
from pipeline.storage.path import locate
from pipeline.storage.uri import DamagedFile
from pipeline.tracking.client import reading_client
from pipeline.tracking.find import find_run
from pipeline.tracking.provenance import FOLDER_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def find_runs(references: Iterable[str], *, storage: str, tracking: TrackingConfig) -> list[ComparedRun]:
    """The runs of these names, folders or MLflow ids (whatever `find_run` takes), also those that only MLflow knows.

    Raises: UserError naming the nearest names.
    """
    runs, damaged = [], []
    for reference in references:
        try:
            runs.append(from_folder(find_run(reference, storage=storage, tracking=tracking)))
        except DamagedFile as error:
            note(f"{reference} is left out: {error}")
            damaged.append(error)
        except UserError:
            client = reading_client(tracking)
            known = _runs(client, None) if client else []
            match = [run for run in known if reference in (run.info.run_id, run.info.run_name)]
            if not client or not match:
                raise _unknown(reference, storage, known) from None
            trained = [run for run in match if is_training(run)]
            if not trained:
                raise _untrained(reference, match[0]) from None
            runs.append(from_mlflow(client, trained[0]))
    if damaged and not runs:
        raise damaged[0]
    return runs


def experiment_runs(name: str, last: int, tracking: TrackingConfig) -> list[ComparedRun]:
    """The runs of an MLflow experiment that started last, the lowest validation bits per byte first.

    Raises: UserError if there is no such experiment, or nothing in it.
    """
    client = reading_client(tracking)
    names = [experiment.name for experiment in client.search_experiments()] if client else []
    if client is None or name not in names:
        raise UserError(f"no experiment is called {name!r}; {_nearest(name, names, 'experiments')}")
    runs = [run for run in _runs(client, name) if is_training(run)][:last]
    if not runs:
        raise UserError(f"experiment {name!r} has no training runs yet: train one with --tracking.experiment {name}")
    return ranked([_from_anywhere(client, run) for run in runs])


def newest_runs(last: int, storage: str) -> list[ComparedRun]:
    """The runs of a storage folder that started last, trials among them; what is damaged is left out, and a note says
    so. In the order of `ranked`.

    Raises: UserError if there is none.
    """
    runs = []
    for folder in list_runs(storage)[: -last - 1 : -1]:
        try:
            runs.append(from_folder(folder))
        except UserError as error:
            note(f"{folder.name} is left out: {error}")
    require(bool(runs), f"there are no runs in {locate(storage)}: train one, or name another folder with --storage")
    return ranked(runs)


def ranked(runs: list[ComparedRun]) -> list[ComparedRun]:
    """The lowest validation bits per byte first, among the runs on one corpus; those on another come after them."""
    corpora = list(dict.fromkeys(run.corpus_sha256 for run in runs))
    return sorted(runs, key=lambda run: (corpora.index(run.corpus_sha256), _or_infinity(run.results["validation bpb"])))


def _from_anywhere(client: "MlflowClient", run: "Run") -> ComparedRun:
    folder = RunFolder(locate(run.data.tags.get(FOLDER_TAG, "")))
    tracked = folder.mlflow_run()
    same = tracked is not None and tracked["run_id"] == run.info.run_id and folder.config() is not None
    return from_folder(folder) if same else from_mlflow(client, run)


def _runs(client: "MlflowClient", experiment: str | None) -> list["Run"]:
    """The runs of one or of all experiments, the one that started last first."""
    experiments = [one for one in client.search_experiments() if experiment in (None, one.name)]
    listed: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [one.experiment_id for one in experiments],
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        listed += page
        token = page.token
        if not token:
            return listed


def _unknown(reference: str, storage: str, known: list["Run"]) -> UserError:
    names = [folder.name for folder in list_runs(storage)] + [run.info.run_name or "" for run in known]
    near = _nearest(reference, names, "runs")
    return UserError(f"no run is called {reference!r} in {locate(storage)} or in MLflow; {near}")


def _untrained(reference: str, run: "Run") -> UserError:
    sweep = run.data.tags.get("sweep")
    what = f"the sweep {sweep}: name one of its trials" if sweep else "a run of another program: name one that trained"
    return UserError(f"{reference} is {what}")


def _nearest(name: str, names: list[str], kind: str) -> str:
    near = difflib.get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.3) or names[:3]
    return f"nearest: {', '.join(near)}" if near else f"there are no {kind}"


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
