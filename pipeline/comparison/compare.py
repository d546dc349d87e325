"""Runs side by side: the fields in which they differ, their results, and whether these can be compared at all."""

from dataclasses import dataclass
from typing import Any

from pipeline.comparison.compared_run import OF_A_KIND, ComparedRun
from pipeline.terminal import human_bytes

RESULTS = {
    "validation bpb": lambda value: f"{value:.4f}",
    "best validation bpb": lambda value: f"{value:.4f}",
    "test bpb": lambda value: f"{value:.4f}",
    **{name: lambda value: f"{value:.4f}" for name in OF_A_KIND},
    "test bpb, state reset": lambda value: f"{value:.4f}",
    "parameters": lambda value: f"{value:,.0f}",
    "rank": lambda value: f"{value:.0f}",
    "steps": lambda value: f"{value:,.0f}",
    "bytes seen": human_bytes,
    "bytes/s": lambda value: f"{human_bytes(value)}/s",
    "seconds": lambda value: f"{value:,.0f}",
}
"""Results by name, in the order of a table, and how a person reads one. Rank: at the end; seconds: of training."""
BPB = ("validation bpb", "best validation bpb", "test bpb")
OF_A_STATE = "test bpb, state reset"
OF_SOME = (OF_A_STATE, *OF_A_KIND)
"""What only models with a state have, or runs over a mix: of the others nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, and what sets them apart."""

    runs: list[ComparedRun]
    differences: dict[str, list[str]]
    """Field → its value in every run ("–" where a run does not have it), for the fields that are not all equal."""
    notes: list[str]
    """What a reader must know before comparing."""
    same_corpus: bool

    @property
    def results(self) -> list[str]:
        """The results that are told."""
        return [name for name in RESULTS if name not in OF_SOME or any(run.results[name] for run in self.runs)]

    def best(self, result: str) -> float | None:
        """The best value of a result where runs can be ranked by it: bits per byte, on one corpus, of several runs."""
        values = [value for run in self.runs if (value := run.results[result]) is not None]
        return min(values) if result in BPB and self.same_corpus and len(values) > 1 else None

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
    notes = _notes(runs, corpora, unknown)
    return Comparison(runs=runs, differences=differences, notes=notes, same_corpus=len(corpora) == 1 and not unknown)


def _notes(runs: list[ComparedRun], corpora: dict[str, list[ComparedRun]], unknown: list[str]) -> list[str]:
    """`corpora`: the runs by their corpus; `unknown`: names of the runs that do not say theirs."""
    notes = []
    if len(corpora) > 1:
        each = "; ".join(
            f"{group[0].corpus or 'unnamed'} ({sha256[:16]}): {', '.join(run.name for run in group)}"
            for sha256, group in corpora.items()
        )
        notes.append(f"bits per byte cannot be compared: the runs are scored on different corpora: {each}")
    if unknown:
        notes.append(f"no checkpoint or summary says which corpus {', '.join(unknown)} was scored on")
    if len(runs) > 1 and len({run.results["bytes seen"] for run in runs}) > 1:
        notes.append("the runs have seen different numbers of bytes: compare their curves, not only where they end")
    return notes
