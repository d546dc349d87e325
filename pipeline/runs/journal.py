"""metrics.jsonl: one JSON object a logged step, written by the first worker, followed by whoever displays or tracks.

The file is the record of a run. A terminal or an MLflow server that goes away loses nothing: it reads again from here.
"""

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from h2q.errors import UserError
from pipeline.shown import note
from pipeline.storage.append_log import Growing, growing, tail
from pipeline.storage.json_file import parse
from pipeline.storage.uri import read

Record = dict[str, Any]


class Journal:
    """Appends records, in order of their step. Does nothing unless `active`: only the first worker writes."""

    def __init__(self, path: Path, first_step: int, *, active: bool = True) -> None:
        """Open for appending. Records of `first_step` and later are dropped: they will be computed again."""
        self._lines: Growing | None = None
        if active:
            kept = [record for record in read_journal(path) if record["step"] < first_step]
            self._lines = growing(path, "".join(_line(record) for record in kept))

    def write(self, record: Record) -> None:
        """Append one record; readers see whole lines."""
        if self._lines:
            self._lines.append(_line(record))

    def sync(self) -> None:
        """Make what was written survive a power cut: before a checkpoint that counts on it is committed."""
        if self._lines:
            self._lines.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._lines:
                self._lines.close()
        except UserError:
            if kind is None:  # what went wrong first is what is told
                raise


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def read_journal(path: Path) -> list[Record]:
    """All whole records; a note tells of lines that are none. A last line that a crash cut short is not one, either.

    Raises: UserError if the file cannot be read.
    """
    try:
        whole, _, _ = read(path).rpartition(b"\n")
    except FileNotFoundError:
        return []
    return _records(whole, path)


def _records(lines: bytes, path: Path) -> list[Record]:
    """What the lines say. One that is damaged is no reason to lose the others."""
    found = [_parsed(line) for line in lines.split(b"\n")] if lines else []
    records = [record for record in found if record is not None]
    if damaged := len(found) - len(records):
        note(f"{damaged} of {len(found)} lines of {path} are damaged: they are passed over")
    return records


def _parsed(line: bytes) -> Record | None:
    try:
        value = parse(line)
    except ValueError:
        return None
    return value if _is_record(value) else None


def _is_record(value: Any) -> bool:
    """Whether it is numbers of a step, with the time at which they were taken."""
    return (
        isinstance(value, dict)
        and all(type(number) is float or (type(number) is int and abs(number) < 1 << 63) for number in value.values())
        and type(value.get("step")) is int
        and value["step"] >= 0
        and math.isfinite(value.get("time", math.nan))
    )


def series(records: list[Record], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric."""
    chosen = [(record["step"], record[name]) for record in records if name in record]
    return [step for step, _ in chosen], [value for _, value in chosen]


def bytes_seen(record: Record, bytes_per_step: int) -> int:
    """Bytes of the batches of all steps before; in a journal older than this count, as many a step."""
    return record.get("bytes_seen", record["step"] * bytes_per_step)


class Follower:
    """Hands the new records of a journal to a consumer, in a thread of its own; each once, and a step that is trained
    again once more.

    A consumer that raises is called again later with the same records, so a server that comes back misses nothing.
    """

    def __init__(
        self,
        path: Path,
        consume: Callable[[list[Record]], object],
        *,
        every_seconds: float | None = None,
        again: Callable[[int], object] = lambda step: None,
    ) -> None:
        """`every_seconds`: how often to look; None: as it is worth for the place where the journal lies. `again` is
        told of a step from which steps are trained once more."""
        self._path, self._tail = path, tail(path)
        self._consume = consume
        self._again = again
        self._seen: set[tuple[int, float]] = set()
        self._newest = (-1, time.time())  # step and time; a run that is resumed has older records
        self._every_seconds = every_seconds or self._tail.every_seconds
        self._waiting: list[Record] = []
        self._stop = threading.Event()
        self.error: Exception | None = None
        """What the consumer raised last, None once it has taken all records."""
        self._thread = threading.Thread(target=self._run, name=f"follow {path.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Hand over what is left (one try), then end the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = self._every_seconds
        while not self._stop.wait(pause):
            pause = self._every_seconds if self._hand_over() else min(2 * pause, 30.0)
        self._hand_over()

    def _hand_over(self) -> bool:
        try:
            self._waiting += self._new_records()
            if self._waiting:
                self._consume(self._waiting)
        except Exception as error:
            self.error = error
            return False
        self._waiting = []
        self.error = None
        return True

    def _new_records(self) -> list[Record]:
        records = _records(self._tail.read().rstrip(b"\n"), self._path)
        for record in records:
            # What was kept of a file that was started over has the time that it had.
            if record["time"] > self._newest[1]:
                if record["step"] <= self._newest[0]:
                    self._again(record["step"])
                self._newest = record["step"], record["time"]
        # A worker that restarts starts the file over, with what it keeps of it.
        fresh = [record for record in records if (record["step"], record["time"]) not in self._seen]
        self._seen.update((record["step"], record["time"]) for record in fresh)
        return fresh
