"""What a comparison knows of a run: read from its folder or, where that is gone, from MLflow (parameters, tags, metric
histories)."""

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from h2q.alphabet import MARKERS
from h2q.errors import UserError
from pipeline.runs.checkpoint import list_checkpoints, read_state
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record
from pipeline.runs.older import completed
from pipeline.runs.state import UNFINISHED, ended, records_of, state_of
from pipeline.storage.json_file import Count, fitting, object_of
from pipeline.tracking.provenance import DESCRIPTION_TAG, current_options, parameters
from pipeline.tracking.tracker import STATE_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_SIZES = object_of(training=object_of(lanes=Count), model=object_of(seq_len=Count, fixed_rank=Count))
"""What a comparison needs of a config, however old."""
_NEEDED = ("training.lanes", "model.seq_len", "model.fixed_rank")
"""The same, of MLflow's parameters."""

OF_A_KIND = {f"{split} bpb of {kind}": f"{split}/{kind}/bpb" for split in ("validation", "test") for kind in MARKERS}
"""Results that only runs over a mix have, and their metrics."""


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run, wherever it was read."""

    name: str
    status: str
    """As `pipeline.runs.state` has it."""
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
        return _bytes_per_step(self.fields)


def from_folder(folder: RunFolder) -> ComparedRun:
    """A run by its folder."""
    stored, summary = folder.config(), folder.summary() or {}
    assert stored is not None
    # An option that is younger than the run must not show today's default, nor one that was deleted.
    config = completed(stored["config"], stored.get("format", 0))
    config = fitting(config, _SIZES, f"the config in {folder.config_file}", "put it back as it was")
    records, fields = records_of(folder), _fields(stored["preset"], config)
    known = ended(folder, records) or _newest_state(folder)
    status = state_of(folder, records)
    if status == "pruned" and records:  # its checkpoint may lie behind the step at which it was judged
        known |= {"steps": records[-1]["step"], "bytes_seen": 0, "seconds": records[-1].get("seconds")}
    return ComparedRun(
        name=folder.name,
        status=status,
        folder=str(folder.path),
        mlflow_run_id=(folder.mlflow_run() or {}).get("run_id"),
        command=stored["command"],
        corpus=summary.get("corpus"),
        corpus_sha256=known.get("corpus_sha256"),
        fields=fields,
        results=_results(records, known, _bytes_per_step(fields), config["model"]["fixed_rank"]),
        records=records,
        sample=summary.get("sample"),
    )


def is_training(run: "Run") -> bool:
    """Whether a run of MLflow's is one that `from_mlflow` can read: not a sweep's own, nor another program's."""
    return all(run.data.params.get(name, "").isdecimal() for name in _NEEDED)


def from_mlflow(client: "MlflowClient", run: "Run") -> ComparedRun:
    """A run by what MLflow holds of it, where it `is_training`."""
    by_step: dict[int, Record] = {}
    for key in run.data.metrics:
        if not key.startswith("system/"):
            for metric in client.get_metric_history(run.info.run_id, key):
                record = by_step.setdefault(metric.step, {"step": metric.step, "time": metric.timestamp / 1000})
                record[key] = metric.value
    records = [by_step[step] for step in sorted(by_step)]
    tags, fields = run.data.tags, run.data.params | current_options(run.data.tags)
    return ComparedRun(
        name=run.info.run_name or run.info.run_id,
        status=UNFINISHED if run.info.status == "RUNNING" else tags.get(STATE_TAG, UNFINISHED),
        folder=None,
        mlflow_run_id=run.info.run_id,
        command=tags.get(DESCRIPTION_TAG, "").partition("\n")[0].strip("`") or None,
        corpus=tags.get("corpus"),
        corpus_sha256=tags.get("corpus_sha256"),
        fields=_fields(tags.get("preset", "–"), fields),
        results=_results(records, run.data.metrics, _bytes_per_step(fields), int(fields["model.fixed_rank"])),
        records=records,
        sample=None,
    )


def _fields(preset: str, config: dict[str, Any]) -> dict[str, str]:
    return {"preset": preset} | {name: str(value) for name, value in parameters(config).items()}


def _bytes_per_step(fields: dict[str, str]) -> int:
    """Bytes of a global batch; a run older than `training.horizon` had one chunk a step."""
    sizes = fields["training.lanes"], fields["model.seq_len"], fields.get("training.horizon", "1")
    return math.prod(map(int, sizes))


def _results(records: list[Record], known: dict[str, Any], bytes_per_step: int, rank: int) -> dict[str, float | None]:
    """`known`: what records do not hold, of which `parameters`, `seconds`, `bytes_seen` and `steps` (of a checkpoint:
    `step`) are used; `bytes_per_step`, `rank`: where none is logged."""
    latest: Record = {}
    for record in records:
        latest |= record
    validations = [bpb for record in records if math.isfinite(bpb := record.get("validation/bpb", math.nan))]
    steps = max(latest.get("step", 0), known.get("steps", known.get("step", 0)))
    seen = max(known.get("bytes_seen", 0), latest.get("bytes_seen", steps * bytes_per_step))
    seconds = known.get("seconds")
    return {
        "validation bpb": latest.get("validation/bpb"),
        "best validation bpb": min(validations, default=None),
        "test bpb": latest.get("test/bpb"),
        **{name: latest.get(metric) for name, metric in OF_A_KIND.items()},
        "test bpb, state reset": latest.get("test/bpb_reset"),
        "parameters": known.get("parameters"),
        "rank": latest.get("growth/rank", rank),
        "steps": steps,
        "bytes seen": seen,
        "bytes/s": seen / seconds if seconds else latest.get("bytes_per_second"),
        "seconds": seconds,
    }


def _newest_state(folder: RunFolder) -> dict[str, Any]:
    """What the newest checkpoint says of the run, unverified: enough to describe a run that has not ended."""
    for path in list_checkpoints(folder.checkpoints):
        with contextlib.suppress(FileNotFoundError, UserError):
            return read_state(path)
    return {}
