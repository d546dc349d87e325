"""A state is carried through every byte; lanes start cold, and what that costs is what they say."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.config import RunConfig, TrainingConfig
from pipeline.corpus.side_by_side import Stretch, stretches
from pipeline.evaluation import evaluate
from pipeline.evaluation.carried import cold_start_bits, score_lane
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.learner import Learner
from pipeline.evaluation.machine import Machine
from pipeline.evaluation.prequential import online
from pipeline.evaluation.progress import EvaluationProgress
from pipeline.evaluation.ray_scoring import Weights, score_here, score_on_ray
from pipeline.evaluation.scoring import Tally
from pipeline.evaluation.setup import Setup, Windowing
from pipeline.evaluation.subject import Subject
from pipeline.runs.checkpoint import MODEL, Checkpoint
from pipeline.training.precision import setup_precision

CPU = torch.device("cpu")
AUTOCAST = setup_precision("fp32", CPU)
SIZES = ModelConfig(mixer="state", dim=32, depth=2, heads=2, factor=4, fixed_rank=2, seq_len=8, dropout=0.0)


def lively(**changes) -> ByteModel:
    torch.manual_seed(0)
    model = ByteModel(replace(SIZES, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def data(tmp_path: Path) -> RawFile:
    path = tmp_path / "data"
    path.write_bytes(bytes(torch.randint(97, 123, (3001,), generator=torch.Generator().manual_seed(0)).tolist()))
    return RawFile(path)


def whole(model: ByteModel, data: RawFile) -> torch.Tensor:
    x = torch.from_numpy(data.read(0, len(data)).copy()).long()[None]
    with torch.no_grad():
        logits, _ = model(x[:, :-1], state=model.new_state(1))
    return functional.cross_entropy(logits[0], x[0, 1:], reduction="none").double()


@pytest.mark.parametrize("changes", [{}, {"mixer": "both"}, {"rotation": "quaternion"}, {"ngrams": "2:64x4"}])
def test_one_lane_is_one_long_forward_pass(data: RawFile, changes: dict) -> None:
    model = lively(**changes)
    [lane] = stretches(len(data), 1)
    parts: list[float] = []
    table = score_lane(model, data, lane, AUTOCAST, lambda part: parts.append(part[1, 8:].sum()))
    nats = whole(model, data)
    assert Tally(table).bits == pytest.approx(float(nats.sum()) / np.log(2), rel=1e-6)
    assert Tally(table).scored == parts[-1] == 3000 and parts[0] == 2048
    by_position = [float(nats[position::8].sum()) for position in range(8)]
    assert np.allclose(table[0, :8], by_position, rtol=1e-5) and table[1, :8].sum() == 3000


def test_what_lanes_cost_is_what_their_cold_starts_cost(data: RawFile) -> None:
    """Where what warms them up reaches back to the beginning: in two lanes here."""
    model, lanes = lively(), stretches(len(data), 2)
    cut = sum(Tally(score_lane(model, data, lane, AUTOCAST)).bits for lane in lanes)
    cost = cold_start_bits(model, data, lanes, AUTOCAST)
    assert cost == pytest.approx(cut - float(whole(model, data).sum()) / np.log(2), rel=1e-3) and abs(cost) > 1e-2
    assert cold_start_bits(model, data, stretches(len(data), 1), AUTOCAST) == 0


def test_what_cold_starts_cost_is_no_time_of_scoring(
    data: RawFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves on with every stage."""
    save_file({name: value.clone() for name, value in lively().state_dict().items()}, tmp_path / MODEL)
    stages: list[str] = []
    progress = EvaluationProgress(Console(quiet=True))
    monkeypatch.setattr(progress, "stage", stages.append)
    monkeypatch.setattr("pipeline.evaluation.evaluate.time.perf_counter", lambda: len(stages))
    setup = Setup(
        options=EvaluationConfig(mode="carried", lanes=2, local=True),
        subject=Subject(name="one", model=lively(), config=RunConfig(model=SIZES), path=tmp_path),
        windowing=Windowing(window=8, stride=8, lanes=2),
        machine=Machine(precision="fp32", gpu=False, threads=1),
        data=data,
        byte_counts=np.zeros(256, np.int64),
        kinds=[],
    )
    code = evaluate.score(setup, progress)
    assert len(stages) == 2 and code.cold_bits != 0 and code.seconds == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_change_nothing(data: RawFile, tmp_path: Path) -> None:
    save_file({name: value.clone() for name, value in lively().state_dict().items()}, tmp_path / "model.safetensors")
    weights = Weights(SIZES, tmp_path / "model.safetensors")
    machine, lanes = Machine(precision="fp32", gpu=False, threads=1), stretches(len(data), 3)
    shown: list[int] = []
    [here] = score_here(weights, [data], [lanes], 8, machine, lambda tally: shown.append(tally.scored))
    assert shown == sorted(shown) and shown[-1] == here.scored == 3000
    [found] = score_on_ray(weights, [data], [lanes], 8, machine, 2, lambda tally: None)
    assert np.array_equal(found.table, here.table)


@pytest.mark.parametrize("lanes", [1, 3, 7])
def test_an_online_learner_carries_the_state(data: RawFile, lanes: int) -> None:
    """At rate 0 it is merely scored, each lane with all that came before."""
    config = RunConfig(model=SIZES, training=TrainingConfig(lanes=2))
    made = Checkpoint(model=lively().state_dict(), optimizer={}, carried={}, state={})
    learner = Learner(config, made, CPU, AUTOCAST, lanes=lanes, rate=lambda step: 0.0, updates=2)
    *_, (point, tally) = online(learner, data, AUTOCAST, window=500, stride=500, lanes=lanes)
    model, edges = lively(), [lane * len(data) // lanes for lane in range(lanes + 1)]
    wanted = 0.0
    for start, stop in pairwise(edges):
        wanted += Tally(score_lane(model, data, Stretch(start, stop - 1), AUTOCAST)).bits + 8
    assert point.bits == pytest.approx(wanted, rel=1e-6) and tally.scored == len(data) - lanes
