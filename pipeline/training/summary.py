"""What a person wants to know of a run when it has ended, as a table and as summary.json."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config import RunConfig, TrainingConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.mixed import AnySplit, MixedSplit
from pipeline.runs.checkpoint import newest_state
from pipeline.runs.folder import SAMPLE_BYTES, RunFolder
from pipeline.runs.journal import Record
from pipeline.shown import MARKS, cell, printable
from pipeline.storage.json_file import read_hint, shape_of
from pipeline.terminal import human_bytes, human_seconds
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.uri import ui_address, ui_command
from pipeline.training.schedule import due_evaluations


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a run. bpb: bits per byte."""

    name: str
    preset: str
    status: Literal["finished", "stopped"]
    corpus: str
    corpus_sha256: str
    corpus_notes: list[str]
    parameters: int
    steps: int
    bytes_seen: int
    train_bpb: float | None
    """Mean over the steps since the last record."""
    validation_bpb: float | None
    """Of the newest evaluation; None before the first."""
    test_bpb: float | None
    """Measured at the end of a run; None of one that has not finished."""
    evaluated_bytes: int | None
    """Of a split, where evaluations scored only its first ones; None: all of each."""
    whole: list[str]
    """The splits of which evaluations scored all."""
    validation_bpb_reset: float | None
    test_bpb_reset: float | None
    """With a state: the same where it starts at zero in each window, so that what it is worth is seen."""
    best_validation_bpb: float | None
    best_step: int | None
    rank: int
    bytes_per_second: float
    """Over all steps, evaluation and start-up aside."""
    peak_memory_bytes: int
    """Of the first worker: resident, or allocated on its GPU."""
    seconds: float
    """Of training, over all starts of the run."""
    wall_seconds: float | None
    """Over all starts of the run, everything included; None where nobody measured it."""
    world_size: int
    device: str
    precision: str
    checkpoint: str
    mlflow_run_id: str | None
    mlflow_tracking_uri: str | None
    mlflow_experiment_id: str | None
    references: dict[str, dict[str, float | None]]
    """Bits per byte that simple compressors need, by split: order0, gzip, xz. Of a mix each kind is compressed by
    itself, and stands here too, as `validation/image`, say."""
    kinds: dict[str, float | None]
    """Of a mix, bits per byte of each kind in each split, by the same names."""
    sample: str | None

    def show(self, console: Console, folder: Path) -> None:
        """As a table, a sample, and what to do next."""
        console.print()
        console.print(self._figures())
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold")
        facts.add_column(overflow="fold")
        trained = f"{human_seconds(self.seconds)} training"
        if self.wall_seconds is not None:
            trained += f", {human_seconds(self.wall_seconds)} in all"
        for name, value in (
            ("corpus", f"{self.corpus}, sha256 {self.corpus_sha256[:16]}"),
            *(("", note) for note in self.corpus_notes),
            ("model", f"{self.parameters:,} parameters, rank {self.rank}"),
            *self._worth(),
            ("seen", f"{self.bytes_seen:,} bytes in {self.steps:,} steps, {human_bytes(self.bytes_per_second)}/s"),
            ("time", f"{trained}, on {self.world_size} × {self.device}, {self.precision}"),
            ("memory", f"{human_bytes(self.peak_memory_bytes)} at most in a worker"),
            ("run", str(folder)),
        ):
            facts.add_row(name, cell(value))
        console.print(facts)
        if self.sample:
            console.print(f"\n[bold]sample[/bold]  the test split's first bytes, then {SAMPLE_BYTES} of the model's")
            console.print(_told_apart(printable(self.sample), dim=console.is_terminal), highlight=False, soft_wrap=True)
        files = sorted((folder / "samples").glob("*"))
        if newest := [file for file in files if file.stem[:14] == files[-1].stem[:14] and file.suffix != ".txt"]:
            console.print("\n[bold]samples[/bold]  beginnings of the test split, completed by the model")
            console.print(
                "\n".join(printable(str(file)) for file in newest), markup=False, highlight=False, soft_wrap=True
            )
        self.show_ui(console)

    def show_ui(self, console: Console) -> None:
        """How to look at it in MLflow beside the other runs of its experiment, where it is tracked."""
        if self.mlflow_tracking_uri and self.mlflow_experiment_id:
            console.print("\n[bold]compare runs[/bold]")
            command = ui_command(self.mlflow_tracking_uri)
            address = ui_address(self.mlflow_tracking_uri, self.mlflow_experiment_id)
            for line in (*([command] if command else []), f"then open {address}" if command else f"open {address}"):
                console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _worth(self) -> list[tuple[str, str]]:
        """What the state is worth, for a model that has one."""
        if self.test_bpb_reset is None:
            return []
        reset = f"validation {_bits(self.validation_bpb_reset)}, test {_bits(self.test_bpb_reset)}"
        return [("state", f"carried through the split; reset in each window instead: {reset}")]

    def _figures(self) -> Table:
        table = Table(title=cell(f"{self.name}: bits per byte"), title_justify="left", title_style="bold")
        for name in ("split", "this model", "order-0 entropy", "gzip -9", "xz -9e"):
            table.add_column(name, justify="left" if name == "split" else "right")
        for split, bpb in (("validation", self.validation_bpb), ("test", self.test_bpb)):
            others = self.references[split]
            first = (
                f", first {self.evaluated_bytes:,} bytes" if split not in self.whole and self.evaluated_bytes else ""
            )
            table.add_row(split + first, f"[bold]{_bits(bpb)}[/bold]", *_references(others))
            for name in (name for name in self.kinds if name.startswith(f"{split}/")):
                kind = name.partition("/")[2]
                table.add_row(f"  {kind}", _bits(self.kinds[name]), *_references(self.references[name]))
        return table


def read_summary(folder: RunFolder) -> Summary | None:
    """The result of a run that has ended, None where there is none of this version."""
    stored: Any = folder.summary()
    if stored is not None:
        stored = {"kinds": {}, "whole": []} | stored  # of a run that is older than mixes, or this list
    known = {field.name for field in fields(Summary)}
    if stored is None or stored.keys() != known:
        return None
    return read_hint(folder.summary_file, shape_of(Summary, complete=True), "it is not shown") and Summary(**stored)


def _told_apart(sample: str, *, dim: bool) -> Text:
    """The sample with its prompt dim where that can be seen, else between its marks."""
    prompt, behind, written = sample.removeprefix(MARKS[0]).partition(MARKS[1])
    return Text(prompt, style="dim").append(written, style="not dim") if dim and behind else Text(sample)


def _references(found: dict[str, float | None]) -> list[str]:
    return [_bits(found[name]) for name in ("order0", "gzip", "xz")]


def _bits(bpb: float | None) -> str:
    return "–" if bpb is None else f"{bpb:.3f}"


def named_splits(corpus: Corpus) -> dict[str, AnySplit]:
    """What is scored: `validation` and `test`, and of a mix each kind in them, as `validation/image`."""
    named: dict[str, AnySplit] = {}
    for split in (corpus.validation, corpus.test):
        named[split.name] = split
        if isinstance(split, MixedSplit):
            named |= {f"{split.name}/{part.kind}": part.split for part in split.parts}
    return named


def _compressed(split: AnySplit) -> dict[str, float | None]:
    return {"order0": split.order0_bpb, "gzip": split.gzip_bpb, "xz": split.xz_bpb}


def _unfinished(state: dict[str, Any], training: TrainingConfig) -> bool:
    """Whether steps are left, or evaluations that were due when it stopped."""
    evaluated = state.get("evaluated")
    return state["step"] < training.steps or (
        evaluated is not None and bool(due_evaluations(state["step"], training, evaluated))
    )


def _score(latest: Record, name: str, unfinished: bool) -> float | None:
    """The bits per byte of a split or a kind of one; a test that is not the end's is none."""
    return None if unfinished and name.startswith("test") else latest.get(f"{name}/bpb")


def summarise(
    config: RunConfig,
    folder: RunFolder,
    corpus: Corpus,
    records: list[Record],
    tracker: Tracker,
    preset: str,
    wall_seconds: float | None,
) -> Summary:
    """Gather the summary of a run that has ended from its journal and its last checkpoint, and write summary.json."""
    latest: Record = {}
    for record in records:
        latest |= record
    splits = named_splits(corpus)
    newest = newest_state(folder.checkpoints)
    assert newest is not None, "a run that has ended has a checkpoint"
    state, checkpoint, _ = newest
    both = (corpus.validation, corpus.test)
    whole = [split.name for split in both if config.training.scored(len(split)) == len(split)]
    seen = state.get("bytes_seen", state["step"] * config.bytes_per_step)  # where it lacks, nothing was changed
    unfinished = _unfinished(state, config.training)
    samples = sorted(folder.samples.glob("*.txt")) if config.corpus.kind == "text" else []
    summary = Summary(
        name=folder.name,
        preset=preset,
        status="stopped" if unfinished else "finished",
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        corpus_notes=list(corpus.manifest["notes"]),  # that a hub did not answer was said at the start
        parameters=state["parameters"],
        steps=state["step"],
        bytes_seen=seen,
        train_bpb=latest.get("train/bpb"),
        validation_bpb=latest.get("validation/bpb"),
        test_bpb=_score(latest, "test", unfinished),
        evaluated_bytes=None if len(whole) == len(both) else config.training.evaluate_bytes,
        whole=whole,
        validation_bpb_reset=latest.get("validation/bpb_reset"),
        test_bpb_reset=latest.get("test/bpb_reset"),
        best_validation_bpb=state["best"] and state["best"]["bpb"],
        best_step=state["best"] and state["best"]["step"],
        rank=latest.get("growth/rank", config.model.fixed_rank),
        bytes_per_second=seen / state["seconds"] if state["seconds"] else 0.0,
        peak_memory_bytes=latest.get("memory/peak_bytes", 0),
        seconds=state["seconds"],
        wall_seconds=wall_seconds,
        world_size=state["world_size"],
        device=state["device"],
        precision=config.precision,
        checkpoint=str(checkpoint),
        mlflow_run_id=tracker.run_id,
        mlflow_tracking_uri=tracker.uri,
        mlflow_experiment_id=tracker.experiment_id,
        references={name: _compressed(split) for name, split in splits.items()},
        kinds={name: _score(latest, name, unfinished) for name in splits if "/" in name},
        sample=samples[-1].read_text(encoding="utf-8") if samples else None,
    )
    folder.write_summary(asdict(summary))
    return summary
