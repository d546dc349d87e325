"""The journal: what was written is read, once, whatever happens to the writer or to a reader."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.runs.journal import Follower, Journal, Record, read_journal
from pipeline.storage.append_log import tail


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; the test's own timeout ends a wait that is in vain."""
    while not condition():
        time.sleep(0.01)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path, first_step=0) as journal:
        journal.write({"step": 0, "time": 1.5, "train/bpb": 0.1 + 0.2})
    assert read_journal(path) == [{"step": 0, "time": 1.5, "train/bpb": 0.1 + 0.2}]


def test_a_start_at_a_checkpoint_drops_what_will_be_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path, first_step=0) as journal:
        for step in range(5):
            journal.write({"step": step, "time": 1.0})
    with Journal(path, first_step=3) as journal:
        journal.write({"step": 3, "time": 1.0, "again": 1})
    assert [record["step"] for record in read_journal(path)] == [0, 1, 2, 3]
    assert read_journal(path)[-1] == {"step": 3, "time": 1.0, "again": 1}


def test_a_line_that_a_crash_cut_short_is_not_a_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "time": 1}\n{"step": 1')
    assert read_journal(path) == [{"step": 0, "time": 1}]
    with Journal(path, first_step=1) as journal:
        journal.write({"step": 1, "time": 2.0})
    assert [record["step"] for record in read_journal(path)] == [0, 1]


def test_only_the_first_worker_writes(tmp_path: Path) -> None:
    with Journal(tmp_path / "metrics.jsonl", first_step=0, active=False) as journal:
        journal.write({"step": 0})
        journal.sync()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_file_that_was_started_over_is_read_from_its_start_whatever_its_inode(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = tail(path)
    for content in (b'{"step": 0}\n{"step": 1}\n', b'{"step": 0, "a": 1}\n{"step": 1, "b": 2}\n', b'{"step": 7}\n'):
        path.write_bytes(content)  # in place: the inode stays
        assert follower.read() == content.rstrip() and follower.read() == b""
    with path.open("ab") as file:
        file.write(b'{"step": 8}\n{"st')
    assert follower.read() == b'{"step": 8}'


def test_a_follower_hands_over_every_record_once_also_when_the_writer_starts_again(tmp_path: Path) -> None:
    path, seen = tmp_path / "metrics.jsonl", []
    with Follower(path, seen.extend, every_seconds=0.01):
        with Journal(path, first_step=0) as journal:
            for step in range(4):
                journal.write({"step": step, "time": 1.0})
            wait_for(lambda: len(seen) == 4)
        with Journal(path, first_step=2) as journal:  # as after a crash: steps 2 and 3 are computed again
            for step in range(2, 6):
                journal.write({"step": step, "time": 1.0})
    assert [record["step"] for record in seen] == list(range(6))


def test_a_follower_tells_where_steps_are_trained_again_but_not_that_a_run_is_resumed(tmp_path: Path) -> None:
    path, seen, again = tmp_path / "metrics.jsonl", [], []
    times = itertools.count(time.time() - 3500, 1000)  # four in the past

    def train(steps: range) -> None:
        with Journal(path, first_step=steps.start) as journal:
            for step in steps:
                journal.write({"step": step, "time": next(times)})

    train(range(4))
    with Follower(path, seen.extend, every_seconds=0.01, again=again.append):
        wait_for(lambda: len(seen) == 4)
        train(range(2, 5))  # resumed
        wait_for(lambda: len(seen) == 7)
        train(range(5, 7))  # a worker was replaced, and no step was lost
        wait_for(lambda: len(seen) == 9)
        train(range(4, 9))  # and again, with three steps lost
    assert [record["step"] for record in seen] == [*range(4), *range(2, 7), *range(4, 9)], "the new attempt, too"
    assert again == [4]


def test_a_consumer_that_fails_is_given_the_same_records_again(tmp_path: Path) -> None:
    path, taken, failures = tmp_path / "metrics.jsonl", [], []

    def consume(records: list[Record]) -> None:
        if len(failures) < 3:
            failures.append(records)
            raise ConnectionError("away")
        taken.extend(records)

    with Follower(path, consume, every_seconds=0.01) as follower, Journal(path, first_step=0) as journal:
        journal.write({"step": 0, "time": 1.0})
        journal.write({"step": 1, "time": 1.0})
        wait_for(lambda: len(taken) == 2)
        wait_for(lambda: follower.error is None)
    assert [record["step"] for record in taken] == [0, 1]
