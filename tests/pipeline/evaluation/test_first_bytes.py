"""The first bytes of what is scored are charged, in every way of scoring: nothing is given away as a warm-up.

The model expects one byte always, and the data begin with twenty others; so the code is as long as those cost, and
shorter by as much where any of them is left out.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.compression.codec import Encoder, follow
from pipeline.config import RunConfig
from pipeline.corpus.side_by_side import stretches
from pipeline.evaluation.carried import score_lane
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.learner import Learner
from pipeline.evaluation.prequential import online
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import plan
from pipeline.runs.checkpoint import Checkpoint
from pipeline.training.precision import setup_precision
from pipeline.training.validate import bits_per_byte
from pipeline.training.worker import Worker

CPU = torch.device("cpu")
AUTOCAST = setup_precision("fp32", CPU)
SURE, COST, FIRST, WINDOW = ord("a"), 10.0, 20, 16
"""The byte that is expected, bits of any other, and how many of those the data begin with."""


def expecting(mixer: str) -> ByteModel:
    """Without embeddings the logits are the head's bias."""
    sizes = {"dim": 32, "depth": 1, "heads": 2, "factor": 4, "fixed_rank": 2, "seq_len": WINDOW}
    model = ByteModel(ModelConfig.from_dict({**sizes, "mixer": mixer, "dropout": 0.0}))
    with torch.no_grad():
        model.token_emb.weight.zero_()
        model.head.bias.fill_(-COST * np.log(2))
        model.head.bias[SURE] = np.log1p(-255 * 2**-COST)
    return model.eval()


def windows(model: ByteModel, data: RawFile, stride: int, lanes: int = 1) -> float:
    tally = Tally.empty(WINDOW)
    for batch in plan(len(data), window=WINDOW, stride=stride, lanes=lanes):
        tally.add(score(model, batch.read(data), batch.skip, WINDOW, AUTOCAST))
    return tally.bits + 8


def carried(model: ByteModel, data: RawFile) -> float:
    return 8 + sum(Tally(score_lane(model, data, lane, AUTOCAST)).bits for lane in stretches(len(data), 1))


def prequential(model: ByteModel, data: RawFile) -> float:
    made = Checkpoint(model=model.state_dict(), optimizer={}, carried={}, state={})
    learner = Learner(RunConfig(model=model.config), made, CPU, AUTOCAST, lanes=1, rate=lambda step: 0.0)
    *_, (point, _) = online(learner, data, AUTOCAST, window=WINDOW, stride=WINDOW, lanes=1)
    return point.bits


def training(model: ByteModel, data: RawFile) -> float:
    worker = Worker(world_rank=0, world_size=1, device=CPU)
    return len(data) * bits_per_byte(model, data, worker, AUTOCAST)  # type: ignore[arg-type]


def archive(model: ByteModel, data: RawFile) -> float:
    encoder = Encoder(data.read(0, len(data)))
    follow(model, len(data), encoder, stride=8, lanes=1)
    return 32.0 * len(encoder.result())


WAYS = [
    pytest.param("attention", lambda model, data: windows(model, data, 5), id="sliding"),
    pytest.param("attention", lambda model, data: windows(model, data, WINDOW, 3), id="lanes"),
    pytest.param("state", carried, id="carried"),
    *(
        pytest.param(mixer, way, id=f"{way.__name__}, {mixer}")
        for mixer in ("attention", "state")
        for way in (prequential, training, archive)
    ),
]


@pytest.mark.parametrize(("mixer", "way"), WAYS)
def test_the_first_bytes_are_charged(mixer: str, way: Callable, tmp_path: Path) -> None:
    model, size = expecting(mixer), 120
    (tmp_path / "data").write_bytes(bytes(range(FIRST)) + bytes([SURE]) * (size - FIRST))
    sure = -np.log2(1 - 255 * 2**-COST)
    wanted = 8 + (FIRST - 1) * COST + (size - FIRST) * sure
    assert way(model, RawFile(tmp_path / "data")) == pytest.approx(wanted, abs=33 if way is archive else 0.1)
