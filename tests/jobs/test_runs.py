"""The runs that there are: listed, and deleted with what MLflow holds of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.storage.lock import lock
from pipeline.tracking.store import MLflowStore
from pipeline.tracking.tracker import track_run

Past = Callable[..., RunFolder]


@pytest.fixture
def storage(tmp_path: Path, past_run: Past) -> Path:
    """Two runs, one that was killed and one that is damaged, and a sweep of two trials, one of them pruned."""
    runs = tmp_path / "runs"
    past_run(runs / "one", 2.5)
    past_run(runs / "two", 2.25, corpus="b")
    past_run(runs / "killed", 3.0).summary_file.unlink()
    past_run(runs / "bad", 3.0).config_file.write_text("[")
    for number, state in ((1, "finished"), (2, "pruned")):
        past_run(runs / "s" / f"s-{number:02d}", 2.0 + number).write("trial.json", {"state": state})
    RunFolder(runs / "s").write("sweep.json", {})
    return tmp_path


def test_a_storage_without_runs_is_told_without_its_password(tmp_path: Path, call_job: Callable) -> None:
    said = call_job("runs", tmp_path, "--storage", f"file://user:hunter2@host{tmp_path}/runs").stdout
    assert f"no runs in file://host{tmp_path}/runs: train one" in said and "hunter2" not in said


def test_every_run_is_a_line(storage: Path, call_job: Callable) -> None:
    done = call_job("runs", storage)
    assert done.returncode == 0
    told = {line.split()[0]: line for line in done.stdout.splitlines()}
    for name, words in {
        "one": ["finished", "2.5000", "aaaaaa", "corpus a"],
        "two": ["finished", "2.2500", "bbbbbb"],
        "killed": ["unfinished", "3.0000"],
        "bad": ["damaged", "–"],
        "s-01": ["finished", "3.0000"],
        "s-02": ["pruned", "4.0000"],
    }.items():
        assert all(word in told[name] for word in words), told[name]
    with lock(storage / "runs" / "one" / ".lock"):
        [one] = [run for run in json.loads(call_job("runs", storage, "--json").stdout) if run["name"] == "one"]
    files = [file for file in (storage / "runs" / "one").rglob("*") if file.is_file()]
    assert one["state"] == "running" and one["size"] == sum(file.stat().st_size for file in files)
    assert one["bpb"] == 2.5 and one["corpus_sha256"] == 64 * "a" and one["age"] >= 0


def test_a_run_is_deleted_with_its_mlflow_run_and_a_sweep_with_its_trials(
    storage: Path, call_job: Callable, empty_store: Callable[[Path], str]
) -> None:
    store = MLflowStore(TrackingConfig(uri=empty_store(storage)))
    ids = {}
    for name in ("one", "two", "s", "s/s-01", "s/s-02"):
        folder = RunFolder(storage / "runs" / name)
        ids[name] = track_run(store, folder, RunConfig(), "c", "0" * 64, "", "laptop", began=1.0).run_id or ""
    for name in ("one", "s"):
        done = call_job("runs", storage, "--delete", name)
        assert done.returncode == 0 and not (storage / "runs" / name).exists()
        assert f"runs restore --run-id {ids[name]}" in done.stdout
    stages = {name: store.client.get_run(run_id).info.lifecycle_stage for name, run_id in ids.items()}
    assert stages == {"one": "deleted", "two": "active", "s": "deleted", "s/s-01": "deleted", "s/s-02": "deleted"}
    assert call_job("runs", storage, "--delete", "two", "--no-mlflow").returncode == 0
    assert store.client.get_run(ids["two"]).info.lifecycle_stage == "active"
    assert call_job("runs", storage, "--delete", "bad").returncode == 0, "a damaged one too"
    assert [path.name for path in (storage / "runs").iterdir()] == ["killed"]


def test_of_a_link_the_link_is_deleted_and_what_it_leads_to_stays(storage: Path, call_job: Callable) -> None:
    run = storage / "runs" / "one"
    run.rename(storage / "moved")
    run.symlink_to(storage / "moved")
    done = call_job("runs", storage, "--delete", "one", "--no-mlflow")
    assert done.returncode == 0 and f"a link: {storage / 'moved'} stays" in done.stdout
    assert not run.is_symlink() and (storage / "moved" / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("s-01", "s-01 is a trial of the sweep s, which is deleted as a whole: name s"),
        ("latest", "only a run's own name deletes it"),
        ("onne", "no run is called 'onne'"),
        ("../runs/one", "no run is called"),
        (".", "no run is called"),
        ("two", "two is being trained"),
    ],
)
def test_what_is_not_deleted(storage: Path, call_job: Callable, name: str, rule: str) -> None:
    before = sorted(storage.rglob("*"))
    with lock(storage / "runs" / "two" / ".lock"):
        done = call_job("runs", storage, "--delete", name)
    assert done.returncode == 2 and rule in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path for path in before if not path.exists()] == []
