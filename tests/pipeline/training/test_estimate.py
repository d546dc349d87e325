"""The estimate: right where it can be counted, near where it is continued from few rows, and nothing left behind."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from h2q.model import ByteModel
from pipeline.benchmark.model import training_step
from pipeline.config import RunConfig, TrainingConfig
from pipeline.training.estimate import Estimate, estimate, run_seconds, show
from pipeline.training.peak import peak_bytes

Make = Callable[..., RunConfig]
SIZES: dict[str, Any] = {"dim": 64, "depth": 4, "heads": 2, "factor": 8, "seq_len": 32}


def test_memory_is_that_of_the_whole_batch_measured(tmp_path: Path, tiny: Make) -> None:
    config = tiny(tmp_path, model=SIZES, training={"lanes": 24})
    found = estimate(config)
    torch.manual_seed(0)
    model = ByteModel(config.model)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert 3 * 4 * found.parameters <= found.checkpoint_bytes < 3.1 * 4 * found.parameters
    x, y = (torch.randint(256, (24, 32)) for _ in range(2))
    real = peak_bytes(training_step(model, x, y, torch.float32), torch.device("cpu"))
    # Gradients, which a step makes and drops, are in one figure and counted apart in the other.
    assert abs(found.activation_bytes - real) < 0.15 * real + found.parameter_bytes
    assert found.step_seconds > 0 and found.worker_bytes > found.library_bytes > 0


def test_more_micro_batches_take_less_memory_and_so_does_the_reversible_backward(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.estimate.ENOUGH_SECONDS", 1e-9)  # its times are not looked at

    def activations(**changes: Any) -> int:
        model = SIZES | {"depth": 8, "seq_len": 32} | changes.pop("model", {})
        return estimate(tiny(tmp_path, model=model, training={"lanes": 64}, **changes)).activation_bytes

    whole = activations()
    assert activations(accumulate=4) < 0.4 * whole
    assert activations(model={"memory": "reversible"}) < 0.5 * whole


def test_the_time_of_a_run_includes_its_evaluations() -> None:
    config = RunConfig(training=TrainingConfig(steps=100, evaluate_every=40))
    numbers: dict[str, Any] = dict.fromkeys((field.name for field in fields(Estimate)), 2)
    numbers["cuda"] = False
    found = Estimate(**numbers)
    sizes = {"train": 10**9, "validation": 3_000_000, "test": 1_000_000}
    assert run_seconds(found, config, sizes) == (200, 2 * (3 + 3 + 3 + 1))
    limited = replace(config, training=replace(config.training, evaluate_bytes=500_000))
    assert run_seconds(found, limited, sizes) == run_seconds(found, limited, None) == (200, 2 * 4 * 0.5)
    said = StringIO()
    for known in (sizes, None):
        show(found, config, Console(file=said, width=200), known)
    assert "3:40 for 100 steps, 0:20 of it evaluations" in said.getvalue()
    assert "3:20 for 100 steps, evaluations and start aside" in said.getvalue()


@pytest.mark.ray
def test_the_job_prints_it_and_starts_nothing(tmp_path: Path) -> None:
    job = Path(__file__).parents[3] / "jobs" / "train.py"
    small = ["--model.dim", "64", "--model.factor", "8", "--model.depth", "2", "--training.lanes", "4"]
    command = [sys.executable, str(job), "laptop", "--estimate", *small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for word in ("memory", "checkpoint", "step", "steps, evaluations"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []
