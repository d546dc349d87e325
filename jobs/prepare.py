"""Prepare a corpus: `python jobs/prepare.py [--corpus.source SOURCE] [--corpus.path PATH] [--option value …]`."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.cli import parse, run
from pipeline.config import CorpusConfig

if TYPE_CHECKING:
    from rich.progress import Progress

    from pipeline.prepare.prepare import Corpus, Event


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Any corpus becomes verified shards of bytes and a manifest. A corpus that is prepared already is left alone."""

    local: bool = False
    """Prepare in this process, without Ray."""
    verbose: bool = False
    """Show the messages of Ray and its workers."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)


def main(args: Sequence[str]) -> None:
    """Prepare the corpus and say what it is."""
    config = parse(PrepareConfig, args, default=PrepareConfig(), prog="python jobs/prepare.py")
    from pipeline.cluster.session import ray_session
    from pipeline.cluster.submitted import check_lasting
    from pipeline.prepare.prepare import prepare

    check_lasting("corpus.prepared", config.corpus.prepared)
    with nullcontext() if config.local else ray_session(verbose=config.verbose), Told() as told:
        corpus = prepare(config.corpus, local=config.local, on_event=told)
    report(corpus)


class Told:
    """Shows the events of preparation: a bar with bytes, rate and time left in a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._task = None
        self._shown = 0

    def __enter__(self) -> "Told":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: "Event") -> None:
        if event.kind == "note":
            self._console.print(event.text, markup=False)
        elif self._bar:
            if self._task is None:
                self._task = self._bar.add_task(event.text, total=event.total)
            self._bar.update(self._task, completed=event.done)
        elif event.total and (tenth := 10 * event.done // event.total) > self._shown:
            self._shown = tenth
            self._console.print(f"{event.text}: {event.done:,} of {event.total:,} bytes", markup=False)


def _bar(console: object) -> "Progress":
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,  # type: ignore[arg-type]
    )


def report(corpus: "Corpus") -> None:
    """A table of the splits, what was decided, and where the shards lie."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=corpus.name, title_justify="left")
    for column in ("split", "bytes", "documents", "shards", "order-0", "gzip -9", "xz -9e"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in corpus.splits.values():
        rates = [split.order0_bpb, split.gzip_bpb, split.xz_bpb]
        told = [f"{split.bytes:,}", f"{split.documents:,}", str(len(split.shards))]
        table.add_row(split.name, *told, *("–" if rate is None else f"{rate:.3f}" for rate in rates))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    samples = {split.sample_bytes for split in corpus.splits.values() if split.sample_bytes < split.bytes}
    sample = f" (gzip and xz: of the first {max(samples):,} bytes)" if samples else ""
    console.print(f"order-0 entropy, gzip and xz in bits per byte{sample}")
    for note in corpus.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"sha256 {corpus.sha256}\nfolder {corpus.folder}", markup=False)


if __name__ == "__main__":
    sys.exit(run(main))
