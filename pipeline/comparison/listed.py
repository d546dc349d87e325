"""The runs of a storage folder as a list: corpus, result, size, age and state of each."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from h2q.errors import UserError
from pipeline.runs.find import best_bpb, corpus_of, list_runs
from pipeline.runs.folder import RunFolder, started
from pipeline.runs.state import records_of, state_of
from pipeline.shown import cell, note
from pipeline.storage.uri import size_of
from pipeline.terminal import human_bytes, human_seconds


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run in the list."""

    name: str
    state: str
    """As `pipeline.runs.state` has it, or damaged."""
    bpb: float | None
    """The lowest validation bits per byte."""
    corpus: str | None
    corpus_sha256: str | None
    size: int
    """Bytes of its folder."""
    age: float
    """Seconds since its start, or since it was last resumed."""


def listed(storage: str) -> list[ListedRun]:
    """The runs of a storage folder and the trials of its sweeps, the newest first; damaged ones too."""
    return [_listed(folder) for folder in reversed(list_runs(storage))]


def _listed(folder: RunFolder) -> ListedRun:
    state, bpb, corpus = "damaged", math.inf, (None, None)
    try:
        folder.config()
        state = state_of(folder, records_of(folder))
        bpb, corpus = best_bpb(folder), corpus_of(folder)
    except UserError as error:
        note(f"{folder.name}: {error}")
    return ListedRun(
        name=folder.name,
        state=state,
        bpb=bpb if math.isfinite(bpb) else None,
        corpus=corpus[0],
        corpus_sha256=corpus[1],
        size=size_of(folder.path),
        age=max(0.0, time.time() - started(folder.config_file)),
    )


def list_table(runs: list[ListedRun]) -> Table:
    """The list on a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("run", "state", "bpb", "size", "age", "corpus"):
        table.add_column(name, justify="right" if name in ("bpb", "size", "age") else "left", overflow="fold")
    for run in runs:
        sha256 = (run.corpus_sha256 or "")[:6]
        table.add_row(
            cell(run.name),
            run.state,
            "–" if run.bpb is None else f"{run.bpb:.4f}",
            human_bytes(run.size),
            human_seconds(run.age),
            cell(" ".join(part for part in (sha256, run.corpus) if part) or "–"),
        )
    return table


def as_json(runs: list[ListedRun]) -> list[dict[str, Any]]:
    """The list for programs."""
    return [asdict(run) for run in runs]
