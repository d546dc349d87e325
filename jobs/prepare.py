"""Prepare a corpus: `python jobs/prepare.py [--corpus.source SOURCE] [--corpus.path PATH] [--option value …]`."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.cli import parse, run
from pipeline.config import CorpusConfig
from pipeline.shown import cell, printable

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.corpus.corpus import Corpus


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
    from pipeline.prepare.progress import PreparationProgress
    from pipeline.prepare.sources import check_places
    from pipeline.terminal import new_console

    console = new_console(highlight=False, soft_wrap=True)
    check_lasting("corpus.prepared", config.corpus.prepared)
    check_places(config.corpus)
    with (
        nullcontext() if config.local else ray_session(verbose=config.verbose),
        PreparationProgress(console) as progress,
    ):
        corpus = prepare(config.corpus, local=config.local, on_event=progress.preparing)
    report(corpus, console)


def report(corpus: "Corpus", console: "Console") -> None:
    """A table of the splits, what was decided, and where the shards lie."""
    from rich.table import Table

    table = Table(title=cell(corpus.name), title_justify="left")
    for column in ("split", "bytes", "documents", "shards", "order-0", "gzip -9", "xz -9e"):
        table.add_column(column, justify="left" if column == "split" else "right")
    rows = []
    for name, split in corpus.splits.items():
        rows += [(name, split), *((f"  {part.kind}", part.corpus.splits[name]) for part in corpus.parts)]
    for name, split in rows:
        rates = [split.order0_bpb, split.gzip_bpb, split.xz_bpb]
        told = [f"{split.bytes:,}", f"{split.documents:,}", str(len(split.shards))]
        table.add_row(name, *told, *("–" if rate is None else f"{rate:.3f}" for rate in rates))
    console.print(table)
    samples = {split.sample_bytes for _, split in rows if split.sample_bytes < split.bytes}
    sample = f" (gzip and xz: of the first {max(samples):,} bytes)" if samples else ""
    console.print(f"order-0 entropy, gzip and xz in bits per byte{sample}")
    for note in corpus.notes:
        console.print(printable(f"note: {note}"), markup=False)
    console.print(printable(f"sha256 {corpus.sha256}\nfolder {corpus.folder}"), markup=False)


if __name__ == "__main__":
    sys.exit(run(main))
