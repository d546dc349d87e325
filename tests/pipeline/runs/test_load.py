"""A run is found by whatever a person calls it."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from h2q.errors import UserError
from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs import tensors
from pipeline.runs.checkpoint import write_checkpoint
from pipeline.runs.find import best_bpb, list_runs
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint, load_model, run_config
from pipeline.tracking.find import find_run

Runs = tuple[str, TrackingConfig, list[RunFolder]]


@pytest.fixture(scope="module")
def runs(tiny: Callable[..., RunConfig], train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two real runs, the second of which trained longer."""
    storage = tmp_path_factory.mktemp("runs")
    folders = []
    for name, steps in (("short", 2), ("long", 4)):
        config = tiny(storage, name=name, training={"steps": steps}, tracking={"enabled": True})
        _, folder, _ = train(config)
        folders.append(folder)
    return config.storage, config.tracking, folders


def test_a_run_is_found_by_name_folder_mlflow_id_and_place(runs: Runs) -> None:
    storage, tracking, (short, long) = runs
    assert list_runs(storage) == [short, long]
    noted = short.read("mlflow.json")
    assert noted is not None
    for reference in ("short", str(short.path), noted["run_id"]):
        assert find_run(reference, storage=storage, tracking=tracking) == short
    assert find_run("latest", storage=storage, tracking=tracking) == long
    best = find_run("best", storage=storage, tracking=tracking)
    assert best_bpb(best) == min(best_bpb(short), best_bpb(long))


def test_mlflow_knows_where_a_run_is_that_lies_elsewhere(runs: Runs, tmp_path: Path) -> None:
    _, tracking, (short, _) = runs
    noted = short.read("mlflow.json")
    assert noted is not None
    assert find_run(noted["run_id"], storage=str(tmp_path), tracking=tracking) == short


def test_a_registered_model_leads_to_its_run(runs: Runs, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    _, tracking, folders = runs
    client = MlflowClient(tracking.uri)
    client.create_registered_model("bytes")
    for folder in folders:
        noted = folder.read("mlflow.json")
        assert noted is not None
        client.create_model_version("bytes", source=f"runs:/{noted['run_id']}/model", run_id=noted["run_id"])
    for reference, folder in (("bytes", folders[1]), ("models:/bytes/1", folders[0]), ("models:/bytes", folders[1])):
        assert find_run(reference, storage=str(tmp_path), tracking=tracking) == folder


@pytest.mark.parametrize("reference", ["shorts", "", "../nowhere", "models:/none/3"])
def test_an_unknown_run_is_one_line_with_the_nearest_names(runs: Runs, reference: str) -> None:
    storage, tracking, _ = runs
    with pytest.raises(UserError, match=r"no run is called .*nearest: .*(short|long)") as caught:
        find_run(reference, storage=storage, tracking=tracking)
    assert "\n" not in str(caught.value)


def test_looking_where_nothing_is_makes_nothing(tmp_path: Path) -> None:
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    for reference in ("latest", "best", "run"):
        with pytest.raises(UserError, match="there are no runs"):
            find_run(reference, storage=str(tmp_path / "runs"), tracking=tracking)
    assert list(tmp_path.iterdir()) == []


def test_the_best_checkpoint_is_loaded(runs: Runs) -> None:
    _, _, (_, long) = runs
    checkpoint, path = load_checkpoint(long)
    assert path.name == f"step-{checkpoint.state['best']['step']:09d}"
    model, config = load_model(long)
    assert config.model == run_config(long).model
    assert not model.training
    state: dict[str, Any] = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in checkpoint.model.items())


def test_no_more_is_read_than_is_used(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, (_, long) = runs
    real, files = tensors._read, []

    def noted(file: Path, *args: Any, **options: Any) -> Any:
        files.append(file.name)
        return real(file, *args, **options)

    monkeypatch.setattr(tensors, "_read", noted)
    assert load_checkpoint(long)[0].optimizer == {} and files == ["model.safetensors"]
    files.clear()
    assert load_checkpoint(long, moments=True)[0].optimizer
    assert files == ["model.safetensors", "optimizer.safetensors"]


def test_a_run_that_was_never_scored_is_its_newest_checkpoint_that_verifies(runs: Runs, tmp_path: Path) -> None:
    _, _, (_, long) = runs
    made, folder = load_checkpoint(long)[0], RunFolder(tmp_path)
    for step, value in ((1, 0.5), (2, float("nan"))):
        weights = {**made.model, "token_emb.weight": torch.full_like(made.model["token_emb.weight"], value)}
        write_checkpoint(
            folder.checkpoints, replace(made, model=weights, state={**made.state, "step": step, "best": None})
        )
    assert load_checkpoint(folder)[0].state["step"] == 1


def test_a_run_without_a_model_says_so(runs: Runs, tmp_path: Path) -> None:
    _, _, (short, _) = runs
    empty = RunFolder(tmp_path)
    with pytest.raises(UserError, match=r"has no config\.json"):
        run_config(empty)
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_model(empty)
    newest = load_checkpoint(short)[1]
    (newest / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"damaged|no valid checkpoint"):
        load_model(short)


@pytest.mark.ray  # a program of its own
def test_who_looks_for_runs_but_computes_nothing_does_not_wait_for_torch() -> None:
    look = "import sys, pipeline.comparison.find, pipeline.comparison.page; "
    look += "import pipeline.tracking.registry, pipeline.sweep.driver; "
    look += "print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout == "False\n"
