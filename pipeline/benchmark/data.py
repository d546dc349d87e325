"""Preparation and lanes, measured: rate, growth with size, memory of every process, first batch, cost of a batch."""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2q.errors import require
from pipeline.benchmark.timing import interleave


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    sizes: tuple[float, ...] = (0.2, 1.0, 2.0, 0.2)
    """Gigabytes of text files to prepare, one after the other; the largest corpus is then read through lanes."""
    shapes: tuple[tuple[int, int], ...] = ((24, 128), (192, 256), (24, 4096), (8, 65536))
    """(lanes, bytes of context) of the batches."""
    folder: str | None = None
    """Folder for the corpora, removed afterwards; it needs twice the largest size. None: a temporary one."""


def run(options: Options) -> dict[str, Any]:
    """One row for each measurement; needs no network."""
    require(len(options.sizes) > 0 and min(options.sizes) > 0, f"sizes must be positive, got {options.sizes}")
    folder = Path(tempfile.mkdtemp(prefix="h2q-data-", dir=options.folder))
    try:
        rows = [_whole_job(folder), *_preparations(folder, options)]
        rows += _lanes(folder / f"shards-{_largest(options)}", options)
    finally:
        shutil.rmtree(folder)
    return {"rows": rows}


def _largest(options: Options) -> int:
    return options.sizes.index(max(options.sizes))


def _row(what: str, seconds: float, size: int, **more: Any) -> dict[str, Any]:
    blank = {"worker MiB": "", "driver MiB": "", "driver gained": ""}
    return {"what": what, "seconds": seconds, "MB/s": size / seconds / 1e6} | blank | more


def _whole_job(folder: Path) -> dict[str, Any]:
    """The command, Ray's start and end included, on files of the sizes of WikiText-2."""
    text, size = folder / "wiki", 0
    text.mkdir()
    for split, megabytes in {"train": 10.9, "valid": 1.15, "test": 1.29}.items():
        size += _write(text / f"wiki.{split}.raw", int(megabytes * 1e6))
    job = Path("jobs/prepare.py")
    require(job.exists(), f"the benchmark runs {job}: call it from the repository's root, not from {Path.cwd()}")
    began = time.perf_counter()
    command = [sys.executable, str(job), "--corpus.path", str(text), "--corpus.prepared", str(folder / "wiki-shards")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _row("job on 13 MB, with Ray's start", time.perf_counter() - began, size)


def _preparations(folder: Path, options: Options) -> Iterator[dict[str, Any]]:
    """Preparation on a Ray that is up, at every size."""
    from pipeline.cluster.session import ray_session
    from pipeline.config import CorpusConfig
    from pipeline.prepare.prepare import prepare

    with ray_session(verbose=False):
        # The first job of Ray Data pays for its own start.
        prepare(CorpusConfig(source="manual", prepared=str(folder / "warm")))
        for number, size in enumerate(options.sizes):
            text = folder / f"text-{number}"
            text.mkdir()
            written = sum(_write(text / f"{i:04d}.txt", 10_000_000) for i in range(round(size * 100)))
            config = CorpusConfig(path=str(text), prepared=str(folder / f"shards-{number}"))
            with _watched() as peaks:
                began = time.perf_counter()
                prepare(config)
                seconds = time.perf_counter() - began
            shutil.rmtree(text)
            if number != _largest(options):
                shutil.rmtree(folder / f"shards-{number}")
            again = ", again" * (size in options.sizes[:number])
            yield _row(f"prepare {size:g} GB{again}", seconds, written, **peaks)


def _write(path: Path, size: int) -> int:
    """English of about this size."""
    from pipeline.prepare.manual import manual

    text, _ = manual()
    text = text[: text.rindex(b"\n") + 1]
    with open(path, "wb") as file:
        for _ in range(max(1, size // len(text))):
            file.write(text)
    return path.stat().st_size


@contextmanager
def _watched() -> Iterator[dict[str, int]]:
    """Peak memory, without mapped files, of this process and of Ray's workers, while the block runs."""
    import psutil

    me, stop = psutil.Process(), threading.Event()

    def own(process: Any) -> int:
        memory = process.memory_info()
        return (memory.rss - memory.shared) >> 20

    before = own(me)
    peaks = {"worker MiB": 0, "driver MiB": before, "driver gained": 0}

    def watch() -> None:
        while not stop.wait(0.1):
            peaks["driver MiB"] = max(peaks["driver MiB"], own(me))
            peaks["driver gained"] = peaks["driver MiB"] - before
            for child in me.children(recursive=True):
                try:
                    if child.cmdline()[0].startswith("ray::"):
                        peaks["worker MiB"] = max(peaks["worker MiB"], own(child))
                except (psutil.Error, IndexError):
                    continue

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peaks
    finally:
        stop.set()
        watching.join()


def _lanes(prepared: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The first batch, and then every batch, from the page cache."""
    from pipeline.corpus.corpus import open_corpus
    from pipeline.corpus.lanes import Lanes

    (folder,) = prepared.iterdir()
    began = time.perf_counter()
    train = open_corpus(folder).train
    Lanes(train, lanes=24, seq_len=128).batch(0)
    yield _row(f"open {train.bytes / 1e9:.1f} GB, first batch", time.perf_counter() - began, 24 * 128)
    for lanes, seq_len in options.shapes:
        for windows in ("lanes", "random"):
            source = Lanes(train, lanes=lanes, seq_len=seq_len, windows=windows)
            many = max(20, min(2000, 50_000_000 // (lanes * seq_len)))
            cases: dict[str, Callable[[], object]] = {
                "uint8": _repeated(source.rows, many),
                "int64": _repeated(source.batch, many),
            }
            for name, seconds in interleave(cases, 5).items():
                each = sorted(seconds)[len(seconds) // 2] / many
                yield _row(f"{windows} {lanes} × {seq_len} {name}", each, lanes * seq_len)


def _repeated(read: Callable[[int], object], steps: int) -> Callable[[], None]:
    def case() -> None:
        for step in range(steps):
            read(step)

    return case
