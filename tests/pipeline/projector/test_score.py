"""A moment of held-out text is what the core is there when it reads as in training, in whatever lanes and strides."""

from typing import Any

import pytest
import torch

from h2q.config import BoundProjector, ModelConfig
from h2q.model import ByteModel
from h2q.projector import Projector
from pipeline.corpus.side_by_side import Bytes
from pipeline.projector.core import Core
from pipeline.projector.reading import read_at
from pipeline.projector.score import held_out
from tests.pipeline.projector.test_lens import Text

TEXT = Text(bytes(torch.randint(256, (600,), generator=torch.Generator().manual_seed(0)).tolist()))
CPU = torch.device("cpu")


def new_core(given: str = "moment", **changes: Any) -> Core:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "seq_len": 16, "dropout": 0.0} | changes
    model = ByteModel(ModelConfig(kind="dense", **sizes))
    with torch.no_grad():  # new weights write nothing to the stream
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return Core(model, given)


def read(data: Bytes, start: int, stop: int) -> torch.Tensor:
    return torch.from_numpy(data.read(start, stop).copy()).long()[None]


@pytest.mark.parametrize("mixer", ["state", "both", "attention"])
def test_a_moment_is_that_of_a_core_which_reads_on(mixer: str) -> None:
    """A core that attends begins its windows at once every `seq_len` bytes, whatever the stride."""
    core, found = new_core("stream" if mixer == "attention" else "moment", mixer=mixer), []
    for stride in (4, 16, 32 if mixer == "state" else 31, 16 if mixer == "state" else 11):
        moments = held_out(core, TEXT, last=16, ahead=4, stride=stride, at_once=16, device=CPU, size=120)
        found.append(torch.cat([each.features for each in moments]))
    assert torch.allclose(found[0][::4], found[1], atol=1e-5)
    assert torch.allclose(found[1][1::2][: len(found[2])], found[2], atol=1e-5)
    assert torch.equal(found[1], found[3])
    state = core.new_state(1)
    for at in range(0, 64, 16):
        features, state = core.moment(read(TEXT, at, at + 16), state)
    assert torch.allclose(features, found[1][3:4], atol=1e-5)


@pytest.mark.parametrize(("mixer", "same"), [("attention", True), ("both", False)])
def test_a_core_that_attends_is_read_behind_a_whole_window(mixer: str, *, same: bool) -> None:
    """Of attention alone a moment is what its window says, wherever that begins in a file; a state knows more."""
    core = new_core("stream", mixer=mixer)
    decoder = ModelConfig(kind="dense", mixer="state", dim=16, depth=1, heads=2, factor=4, halves=False, seq_len=16)
    asked = BoundProjector(core="", sha256="", core_model=core.model.config, last=16, next=4, rank=6, given="stream")
    model, window = Projector(decoder, asked), TEXT.read(300, 316).tobytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    one, other = (
        read_at(core, model, Text(before + window), len(before) + 16).said for before in (b"abc" * 9, b"nothing of it")
    )
    assert (one == other) == same


def test_of_a_core_without_a_state_there_is_the_stream() -> None:
    core = new_core("stream", mixer="attention", ngrams="2:16x4")
    found = next(held_out(core, TEXT, last=16, ahead=4, stride=8, at_once=16, device=CPU))
    assert found.features.shape[1] == 32 and core.new_state(3).numel() == 0
