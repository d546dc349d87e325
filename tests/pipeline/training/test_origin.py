"""What a new run begins with: the options of another, the weights of another."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.model import ByteModel
from jobs.train import configure
from jobs.tune import configure as configure_sweep
from pipeline.cli import options_of
from pipeline.config import PRESETS, RunConfig
from pipeline.runs.checkpoint import Checkpoint, newest_valid, write_checkpoint
from pipeline.runs.folder import RunFolder, claim_folder
from pipeline.storage.path import locate, text_of
from pipeline.training.origin import with_source
from pipeline.training.summary import Summary

Make = Callable[..., RunConfig]
Train = Callable[[RunConfig], tuple[Summary, RunFolder, str]]

PUBLISHED = ModelConfig(
    dim=32, depth=2, heads=2, factor=4, fixed_rank=2, max_rank=4, seq_len=16, init="published", final_norm=False,
    tied_embeddings=False, positions="random", dropout=0.0,
)  # fmt: skip


def imported(storage: Path) -> RunFolder:
    """A run as an import of a published checkpoint leaves it: no moments, of a rank that has grown."""
    config = RunConfig(name="imported", storage=str(storage), model=PUBLISHED)
    storage.mkdir()
    folder = claim_folder(storage, config, "imported", "")
    torch.manual_seed(1)
    model = ByteModel(PUBLISHED)
    model.set_ranks(mixer=2, ffn=3)
    write_checkpoint(
        folder.checkpoints,
        Checkpoint(model=model.state_dict(), optimizer={}, state={"step": 5, "config": config.to_dict()}),
    )
    return folder


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = newest_valid(folder.checkpoints)
    assert found is not None
    return found[0].model


def test_the_config_of_a_run_starts_another_and_options_go_over_it(tmp_path: Path, tiny: Make) -> None:
    run = tiny(tmp_path, training={"lanes": 6}, profile=2)
    Path(run.storage).mkdir()
    folder = claim_folder(Path(run.storage), run, "h2q", "")
    for file in (folder.config_file, folder.path):
        preset, config = configure(["--config", str(file), "--training.steps", "7", "--name", "other"])
        wanted = replace(run.training, steps=7)
        assert preset == "h2q"
        assert config == replace(run, name="other", profile=0, config=str(file), training=wanted)
    sweep = configure_sweep(["--config", str(folder.path), "--search.space", "training.steps=5,6"])[1]
    assert sweep.run == replace(run, name=None, profile=0, local=False, config=str(folder.path))


@pytest.mark.parametrize(
    ("args", "rule"),
    [
        (["--config", "nowhere.json"], "config must be the config.json of a run, but there is no"),
        (["--config", "empty.txt"], "empty.txt is neither that nor a run's folder"),
        (["--config", "folder"], "folder is neither that nor a run's folder"),
        (["--config", "config.json"], "is damaged"),
        (["h2q", "--config", "run"], "brings its own preset: leave out h2q"),
        (["--resume", "--name", "run", "--config", "run"], "leave out --config run"),
        (["--resume", "--name", "run", "--init-from", "best"], "leave out --init-from best"),
        (["--init-from", "nobody"], "no run is called 'nobody'"),
        (["--init-from", "run"], "run has no checkpoint yet"),
    ],
    ids=" ".join,
)
def test_what_contradicts_itself_is_one_line(
    tmp_path: Path, args: list[str], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    claim_folder(tmp_path, RunConfig(name="run"), "laptop", "")
    (tmp_path / "config.json").write_text("[1]")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rule) as caught:
        configure([*args, "--storage", str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_run_begins_with_the_weights_of_another_on_another_corpus(tmp_path: Path, tiny: Make, train: Train) -> None:
    _, first, _ = train(tiny(tmp_path, training={"steps": 4}))
    text = tmp_path / "other.txt"
    text.write_bytes(b"Quite another text, line after line.\n" * 300)
    still = {"steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0, "axiom_lambda": 0.0}
    config = tiny(
        tmp_path, name="second", init_from="run", training=still, corpus={"path": str(text)}, tracking={"enabled": True}
    )
    summary, second, said = train(config)
    assert all(torch.equal(weights(first)[name], tensor) for name, tensor in weights(second).items())
    assert newest_valid(second.checkpoints)[0].optimizer["step/bank.components"].item() == 1  # type: ignore[index]
    source = str(first.path / "checkpoints" / "step-000000004")
    assert source in said
    noted = second.config()
    assert noted is not None and noted["config"]["init_from"] == source
    from mlflow.tracking import MlflowClient

    assert summary.mlflow_run_id is not None
    assert MlflowClient(summary.mlflow_tracking_uri).get_run(summary.mlflow_run_id).data.params["init_from"] == source


def test_weights_are_read_with_a_password_that_is_not_noted(
    tmp_path: Path, tiny: Make, train: Train, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first, _ = train(tiny(tmp_path, training={"steps": 4}))
    uri = store.uri("bucket/first")
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "commit.json"):
        content = (first.checkpoints / "step-000000004" / name).read_bytes()
        (locate(uri) / "step-000000004" / name).write_bytes(content)
    monkeypatch.setattr(store, "user", "nobody")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    source = text_of(locate(uri) / "step-000000004")
    still = {"steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0, "axiom_lambda": 0.0}
    _, second, _ = train(tiny(tmp_path, name="second", init_from=source, training=still))
    assert all(torch.equal(weights(first)[name], tensor) for name, tensor in weights(second).items())
    assert not [path for path in second.path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_an_imported_checkpoint_brings_its_model_and_its_grown_rank(tmp_path: Path, tiny: Make, train: Train) -> None:
    given = tiny(tmp_path)
    folder = imported(Path(given.storage))
    options = options_of(replace(given, model=PRESETS["laptop"].model), PRESETS["laptop"])
    _, config = configure([*options, "--name", "new", "--init-from", "imported", "--growth.enabled"])
    assert config.model == replace(PUBLISHED, fixed_rank=3, max_rank=4)
    _, new, _ = train(replace(config, training=replace(config.training, steps=1, learning_rate=1e-30)))
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(weights(new)[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_a_model_of_another_shape_is_named(tmp_path: Path, tiny: Make) -> None:
    config = tiny(tmp_path)
    imported(Path(config.storage))
    with pytest.raises(UserError, match=r"model of imported: model\.fixed_rank is 3 there, 2 here; leave out --model"):
        with_source(replace(config, init_from="imported", model=PUBLISHED))
    with pytest.raises(UserError, match=r"model\.depth is 2 there, 3 here; leave out --model\.depth"):
        with_source(configure(["--storage", config.storage, "--init-from", "imported", "--model.depth", "3"])[1])
