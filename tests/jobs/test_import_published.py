"""The import job: from a published file to a run, and one clear line for everything else."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.runs.checkpoint import newest_valid

JOB = Path(__file__).parents[2] / "jobs" / "import_published.py"


def published_checkpoint() -> dict[str, torch.Tensor]:
    """A small H2Q under its published names."""
    torch.manual_seed(0)
    width, size, factor, ranks = 32, 1, 8, 2
    p = {"structure_bank.factors_A": torch.randn(ranks, 4, size, size), "token_emb.weight": torch.randn(256, 2 * width)}
    p |= {"pos_emb": torch.randn(1, 12, 2 * width), "head.weight": torch.randn(256, 2 * width)}
    p["head.bias"] = torch.zeros(256)
    for name in ("norm1", "norm2"):
        p |= {f"layers.0.{name}.weight": torch.ones(width), f"layers.0.{name}.bias": torch.zeros(width)}
    for name in (*(f"attn.{part}_proj" for part in "qkvo"), "ffn_1", "ffn_2"):
        p[f"layers.0.{name}.factors_B"] = torch.randn(ranks, factor, factor)
        p[f"layers.0.{name}.bias"] = torch.zeros(width)
    return p


@pytest.mark.ray
def test_a_published_file_becomes_a_run(tmp_path):
    torch.save(
        {"model": published_checkpoint(), "config": {"dim": 64, "dropout_rate": 0.2}, "iter": 7}, tmp_path / "best.pt"
    )
    command = [sys.executable, str(JOB), "best.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    folder = tmp_path / "runs" / "imported-best"
    config = ModelConfig.from_dict(json.loads((folder / "config.json").read_text())["config"]["model"])
    assert (config.dropout, config.head_layout, config.vocab) == (0.2, "published", 256)
    found = newest_valid(folder / "checkpoints")
    assert found is not None and found[0].state["step"] == 7
    model = ByteModel(config)
    model.load_state_dict(found[0].model)
    assert torch.equal(model.token_emb.weight, published_checkpoint()["token_emb.weight"])


def test_the_password_of_the_storage_is_not_kept_with_the_run(tmp_path, call_job):
    torch.save({"model": published_checkpoint()}, tmp_path / "best.pt")
    storage = f"file://someone:hunter2@localhost{tmp_path}/kept"
    done = call_job("import_published", tmp_path, "best.pt", "--storage", storage)
    assert done.returncode == 0
    left = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert len(left) > 3 and not [path for path in left if b"hunter2" in path.read_bytes()]


class Surprise:
    """An object whose unpickling would leave a file behind."""

    def __reduce__(self):
        return (open, ("ran.txt", "w"))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.write_bytes(b"not a checkpoint"), "cannot be read safely"),
        (lambda path: path.write_bytes(pickle.dumps({"model": Surprise()})), "cannot be read safely"),
        (lambda path: torch.save({"model": {}, "surprise": Surprise()}, path), "cannot be read safely"),
        (lambda path: torch.save([1, 2], path), "dictionary under the name model"),
        (lambda path: torch.save({"model": {"a": torch.zeros(1)}}, path), "not a checkpoint of the published"),
        (lambda path: torch.save({"model": {3: torch.zeros(1)}}, path), "3 must be the name of a tensor"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path, write, message, call_job):
    write(tmp_path / "file.pt")
    done = call_job("import_published", tmp_path, "file.pt")
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "ran.txt").exists()
    assert not (tmp_path / "runs").exists()
