"""`latest`, `best` and a sweep's name mean a run that can be read, ranked among runs on one corpus."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.runs.find import find_run, list_runs
from pipeline.runs.folder import RunFolder, check_new, claim_folder, find_folder
from pipeline.runs.load import run_config
from pipeline.shown import note
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.folder import _note, find_sweep
from pipeline.sweep.folder import check_new as check_new_sweep

Past = Callable[..., RunFolder]


@pytest.fixture(autouse=True)
def notes(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    note.cache_clear()
    caplog.set_level(logging.WARNING)
    yield caplog


@pytest.fixture
def storage(tmp_path: Path, past_run: Past) -> Path:
    """A run, and a sweep of three trials that is newer: s-01 pruned, s-02 the best, s-03 the newest of all."""
    past_run(tmp_path / "alone", 2.5)
    for number, bpb in ((1, 2.9), (2, 2.1), (3, 2.3)):
        past_run(tmp_path / "s" / f"s-{number:02d}", bpb)
    sweep = RunFolder(tmp_path / "s")
    corpus: Any = SimpleNamespace(sha256=64 * "a")
    _note(sweep, config=SweepConfig(), preset="laptop", command="python jobs/tune.py", corpus=corpus, notes={})
    return tmp_path


def test_trials_are_runs_too(storage: Path) -> None:
    assert [run.name for run in list_runs(str(storage))] == ["alone", "s-01", "s-02", "s-03"]
    for reference, name in (("latest", "s-03"), ("best", "s-02"), ("s-01", "s-01"), ("alone", "alone")):
        assert find_run(reference, storage=str(storage)).name == name


def test_a_trial_that_is_to_be_resumed_says_where_it_lies(storage: Path) -> None:
    with pytest.raises(UserError, match=r"s-02 is a trial of the sweep s: add --storage .*/s$"):
        find_folder(storage, "s-02")
    assert find_folder(storage / "s", "s-02").name == "s-02"
    with pytest.raises(UserError, match=r"no run s-0\[2\] in .*: leave out --resume"):
        find_folder(storage, "s-0[2]")


def test_a_sweep_means_its_best_trial(storage: Path) -> None:
    """What it calls its best, by the mean over seeds, say; while it has no result, the best so far."""
    for reference in ("s", str(storage / "s")):
        assert find_run(reference, storage=str(storage)).name == "s-02"
    RunFolder(storage / "s").write("summary.json", {"best": {"run": "s-03"}})
    assert find_run("s", storage=str(storage)).name == "s-03"
    RunFolder(storage / "t").path.mkdir()
    RunFolder(storage / "t").write("sweep.json", {})
    with pytest.raises(UserError, match="the sweep t has no trial yet"):
        find_run("t", storage=str(storage))


def test_the_best_is_of_one_corpus_and_says_which(
    storage: Path, past_run: Past, notes: pytest.LogCaptureFixture
) -> None:
    past_run(storage / "poems", 1.0, corpus="b")
    past_run(storage / "more poems", 1.5, corpus="b")
    assert find_run("best", storage=str(storage)).name == "poems"
    [told] = notes.messages
    assert "corpus b (bbbbbbbbbbbbbbbb)" in told and "4 on other corpora cannot be compared" in told


def test_a_damaged_run_is_passed_over_with_a_note(storage: Path, notes: pytest.LogCaptureFixture) -> None:
    (storage / "s" / "s-03" / "config.json").write_text("{")
    (storage / "s" / "s-02" / "metrics.jsonl").unlink()
    assert find_run("latest", storage=str(storage)).name == "s-02"
    assert find_run("best", storage=str(storage)).name == "alone", "s-02 was never evaluated"
    assert len(notes.messages) == 1 and "s-03 is passed over" in notes.messages[0]


def test_the_latest_was_started_or_resumed_last_and_no_copy_is(storage: Path) -> None:
    alone = RunFolder(storage / "alone")
    assert find_run("latest", storage=str(storage)).name == "s-03"
    alone.note_config("laptop", "", run_config(alone))  # as a resume does
    for copy in (shutil.copy, shutil.copy2):  # without and with the times of the files
        for name in ("alone", "s"):
            shutil.copytree(storage / name, storage / f"{name}-{copy.__name__}", copy_function=copy)
    assert find_run("latest", storage=str(storage)) == find_folder(storage, None) == alone
    assert find_sweep(storage, None, "tune").path == storage / "s"


def test_a_run_that_does_not_say_when_it_started_is_as_old_as_its_file(storage: Path) -> None:
    for age, path in enumerate(storage.rglob("config.json")):
        stored = json.loads(path.read_text())
        del stored["started"]
        path.write_text(json.dumps(stored))
        os.utime(path, (1000 + age, 1000 + age))
    assert find_run("latest", storage=str(storage)).path == path.parent


def test_a_link_to_nowhere_is_told_as_what_it_is(storage: Path, notes: pytest.LogCaptureFixture) -> None:
    """A run that was moved away, or whose disk is not mounted, is not taken for one that never was."""
    (storage / "lost").symlink_to(storage / "moved")
    (storage / "round").symlink_to(storage / "round")
    told = r"lost is a link to .*moved, which is not there: put that back, or delete the link"
    with pytest.raises(UserError, match=f"{told}$"):
        find_run("lost", storage=str(storage))
    new = RunConfig(name="lost")
    for ask in (
        partial(check_new, storage, new),
        partial(claim_folder, storage, new, "laptop", ""),
        partial(find_folder, storage, "lost"),
        partial(find_sweep, storage, "lost", "tune"),
        partial(check_new_sweep, RunFolder(storage / "lost"), SweepConfig(run=new)),
    ):
        with pytest.raises(UserError, match=f"{told}, or choose another --name"):
            ask()
    for found in (find_run("latest", storage=str(storage)), find_run("best", storage=str(storage))):
        assert found.name in ("s-03", "s-02")
    assert find_folder(storage, None).name == "alone"
    assert [message.split()[1] for message in notes.messages] == ["lost", "round"], "each is told once"
    assert "lost is passed over" in notes.text and (storage / "lost").is_symlink()


def test_where_nothing_was_evaluated_there_is_no_best(storage: Path) -> None:
    for journal in storage.rglob("metrics.jsonl"):
        journal.unlink()
    with pytest.raises(UserError, match="none of 4 runs was evaluated yet: name one, or say latest"):
        find_run("best", storage=str(storage))


@pytest.mark.parametrize("name", ["latest", "best"])
def test_no_run_is_called_what_means_another(name: str) -> None:
    with pytest.raises(UserError, match=f"name must not be latest or best, .* got {name}"):
        RunConfig(name=name)
