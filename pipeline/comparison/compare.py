"""Runs side by side: the fields in which they differ, their results, and whether these can be compared at all.

A run is read from its folder, or, where that is gone, from MLflow (parameters, tags, metric histories).
"""

import contextlib
import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from h2q.errors import UserError
from pipeline.config import TrackingConfig
from pipeline.runs.checkpoint import list_checkpoints
from pipeline.runs.find import list_runs
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record, read_journal
from pipeline.storage.path import locate
from pipeline.terminal import human_bytes
from pipeline.tracking.find import find_run
from pipeline.tracking.store import FOLDER_TAG, parameters, reading_client

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RESULTS = {
    "validation bpb": lambda value: f"{value:.4f}",
    "best validation bpb": lambda value: f"{value:.4f}",
    "test bpb": lambda value: f"{value:.4f}",
    "parameters": lambda value: f"{value:,.0f}",
    "rank": lambda value: f"{value:.0f}",
    "steps": lambda value: f"{value:,.0f}",
    "bytes seen": lambda value: f"{value:,.0f}",
    "bytes/s": lambda value: f"{human_bytes(value)}/s",
    "seconds": lambda value: f"{value:,.1f}",
}
"""Results by name, in the order of a table, and how a person reads one. Rank: at the end; seconds: of training."""

_UNFINISHED = "unfinished"
"""It goes on, or it was killed: nobody can tell which."""
_BPB = ("validation bpb", "best validation bpb", "test bpb")


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """What a comparison knows of a run."""

    name: str
    status: str
    """finished, stopped, failed, or running (also: killed, if nobody could say so any more)."""
    folder: str | None
    mlflow_run_id: str | None
    command: str | None
    corpus: str | None
    corpus_sha256: str | None
    fields: dict[str, str]
    """Preset and every option, as text."""
    results: dict[str, float | None]
    records: list[Record]
    sample: str | None

    @property
    def bytes_per_step(self) -> int:
        """Bytes of a global batch."""
        return int(self.fields["training.lanes"]) * int(self.fields["model.seq_len"])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, and what sets them apart."""

    runs: list[ComparedRun]
    differences: dict[str, list[str]]
    """Field → its value in every run ("–" where a run does not have it), for the fields that are not all equal."""
    notes: list[str]
    """What a reader must know before comparing."""
    same_corpus: bool

    def best(self, result: str) -> float | None:
        """The best value of a result where runs can be ranked by it: bits per byte, on one corpus, of several runs."""
        values = [value for run in self.runs if (value := run.results[result]) is not None]
        return min(values) if result in _BPB and self.same_corpus and len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the runs with all fields and results, and the differences."""
        kept = ("name", "status", "folder", "mlflow_run_id", "command", "corpus", "corpus_sha256", "fields", "results")
        return {
            "notes": self.notes,
            "same_corpus": self.same_corpus,
            "differences": self.differences,
            "runs": [{name: getattr(run, name) for name in kept} for run in self.runs],
        }


def compare(runs: list[ComparedRun]) -> Comparison:
    """Set runs side by side."""
    names = dict.fromkeys(name for run in runs for name in run.fields)
    columns = {name: [run.fields.get(name, "–") for run in runs] for name in names}
    differences = {name: values for name, values in columns.items() if len(set(values)) > 1}
    corpora: dict[str, list[ComparedRun]] = {}
    for run in runs:
        if run.corpus_sha256:
            corpora.setdefault(run.corpus_sha256, []).append(run)
    unknown = [run.name for run in runs if not run.corpus_sha256]
    notes = []
    if len(corpora) > 1:
        each = "; ".join(
            f"{group[0].corpus or 'unnamed'} ({sha256[:16]}): {', '.join(run.name for run in group)}"
            for sha256, group in corpora.items()
        )
        notes.append(f"bits per byte cannot be compared: the runs are scored on different corpora: {each}")
    if unknown:
        notes.append(f"no checkpoint or summary says which corpus {', '.join(unknown)} was scored on")
    steps = {run.results["bytes seen"] for run in runs}
    if len(runs) > 1 and len(steps) > 1:
        notes.append("the runs have seen different numbers of bytes: compare their curves, not only where they end")
    return Comparison(runs=runs, differences=differences, notes=notes, same_corpus=len(corpora) == 1 and not unknown)


def find_runs(references: Iterable[str], *, storage: str, tracking: TrackingConfig) -> list[ComparedRun]:
    """The runs of these names, folders or MLflow ids (whatever `find_run` takes), also those that only MLflow knows.

    Raises: UserError naming the nearest names.
    """
    found = []
    for reference in references:
        try:
            found.append(from_folder(find_run(reference, storage=storage, tracking=tracking)))
        except UserError:
            client = reading_client(tracking)
            known = _runs(client, None) if client else []
            match = [run for run in known if reference in (run.info.run_id, run.info.run_name)]
            if not client or not match:
                raise _unknown(reference, storage, known) from None
            found.append(from_mlflow(client, match[0]))
    return found


def experiment_runs(name: str, last: int, tracking: TrackingConfig) -> list[ComparedRun]:
    """The runs of an MLflow experiment that started last, the lowest validation bits per byte first.

    Raises: UserError if there is no such experiment, or nothing in it.
    """
    client = reading_client(tracking)
    names = [found.name for found in client.search_experiments()] if client else []
    if client is None or name not in names:
        raise UserError(f"no experiment is called {name!r}; {_nearest(name, names, 'experiments')}")
    runs = [run for run in _runs(client, name) if "model.dim" in run.data.params][:last]
    if not runs:
        raise UserError(f"experiment {name!r} has no training runs yet: train one with --tracking.experiment {name}")
    compared = [_from_anywhere(client, run) for run in runs]
    return sorted(compared, key=lambda run: _or_infinity(run.results["validation bpb"]))


def from_folder(folder: RunFolder) -> ComparedRun:
    """A run by its folder."""
    stored, summary = folder.read("config.json"), folder.read("summary.json") or {}
    assert stored is not None
    # As it was written: an option that is younger than the run must not show today's default.
    config = stored["config"]
    records = read_journal(folder.journal)
    # A run that goes on after its summary was written is no longer what the summary says.
    ended = bool(summary) and bool(records) and records[-1]["step"] == summary["steps"]
    known = summary if ended else _newest_state(folder)
    return ComparedRun(
        name=folder.name,
        status=summary["status"] if ended else _UNFINISHED,
        folder=str(folder.path),
        mlflow_run_id=(folder.read("mlflow.json") or {}).get("run_id"),
        command=stored["command"],
        corpus=summary.get("corpus"),
        corpus_sha256=known.get("corpus_sha256"),
        fields=_fields(stored["preset"], config),
        results=_results(
            records, known, config["training"]["lanes"] * config["model"]["seq_len"], config["model"]["fixed_rank"]
        ),
        records=records,
        sample=summary.get("sample"),
    )


def from_mlflow(client: "MlflowClient", run: "Run") -> ComparedRun:
    """A run by what MLflow holds of it."""
    by_step: dict[int, Record] = {}
    for key in run.data.metrics:
        if not key.startswith("system/"):
            for metric in client.get_metric_history(run.info.run_id, key):
                record = by_step.setdefault(metric.step, {"step": metric.step, "time": metric.timestamp / 1000})
                record[key] = metric.value
    records = [by_step[step] for step in sorted(by_step)]
    tags, fields = run.data.tags, run.data.params
    bytes_per_step = int(fields["training.lanes"]) * int(fields["model.seq_len"])
    status = {"FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed"}.get(run.info.status, _UNFINISHED)
    return ComparedRun(
        name=run.info.run_name or run.info.run_id,
        status=status,
        folder=None,
        mlflow_run_id=run.info.run_id,
        command=tags.get("mlflow.note.content", "").partition("\n")[0].strip("`") or None,
        corpus=tags.get("corpus"),
        corpus_sha256=tags.get("corpus_sha256"),
        fields=_fields(tags.get("preset", "–"), fields),
        results=_results(records, run.data.metrics, bytes_per_step, int(fields["model.fixed_rank"])),
        records=records,
        sample=None,
    )


def _from_anywhere(client: "MlflowClient", run: "Run") -> ComparedRun:
    folder = RunFolder(locate(run.data.tags.get(FOLDER_TAG, "")))
    noted = folder.read("mlflow.json")
    ours = noted is not None and noted["run_id"] == run.info.run_id and folder.read("config.json") is not None
    return from_folder(folder) if ours else from_mlflow(client, run)


def _fields(preset: str, config: dict[str, Any]) -> dict[str, str]:
    return {"preset": preset} | {name: str(value) for name, value in parameters(config).items()}


def _results(records: list[Record], known: dict[str, Any], bytes_per_step: int, rank: int) -> dict[str, float | None]:
    """`known`: what records do not hold, of which `parameters` and `seconds` are used; `rank`: where none is logged."""
    latest: Record = {}
    for record in records:
        latest |= record
    validations = [record["validation/bpb"] for record in records if "validation/bpb" in record]
    steps = latest.get("step", 0)
    return {
        "validation bpb": latest.get("validation/bpb"),
        "best validation bpb": min(validations, default=None),
        "test bpb": latest.get("test/bpb"),
        "parameters": known.get("parameters"),
        "rank": latest.get("growth/rank", rank),
        "steps": steps,
        "bytes seen": steps * bytes_per_step,
        "bytes/s": latest.get("bytes_per_second"),
        "seconds": known.get("seconds"),
    }


def _newest_state(folder: RunFolder) -> dict[str, Any]:
    """What the newest checkpoint says of the run, unverified: enough to describe a run that has not ended."""
    for path in list_checkpoints(folder.checkpoints):
        with contextlib.suppress(OSError, ValueError):
            return json.loads((path / "state.json").read_text())
    return {}


def _runs(client: "MlflowClient", experiment: str | None) -> list["Run"]:
    """The runs of one or of all experiments, the one that started last first."""
    experiments = [found for found in client.search_experiments() if experiment in (None, found.name)]
    listed: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [found.experiment_id for found in experiments],
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


def _nearest(name: str, names: list[str], kind: str) -> str:
    near = difflib.get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.3) or names[:3]
    return f"nearest: {', '.join(near)}" if near else f"there are no {kind}"


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
