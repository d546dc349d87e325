"""The lens of the last block is the core's own output; before it less is known, and no more than is there."""

from typing import Any

import numpy as np
import pytest
import torch

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.projector.lens import shortened, tuned_lens


class Text:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._data[start:stop]


@pytest.mark.parametrize("changes", [{"feed_forward": False}, {"halves": False}, {"mixer": "both", "ngrams": "2:9x4"}])
def test_the_last_block_says_what_the_core_says(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for size, small in (("STEPS", 2), ("LENGTH", 32), ("SCORED", 8)):
        monkeypatch.setattr(f"pipeline.projector.lens.{size}", small)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"dim": 32, "depth": 3, "heads": 2, "factor": 4, "seq_len": 16, "dropout": 0.0}
    sizes |= {"mixer": "state"} | changes
    core = ByteModel(ModelConfig(kind="dense", **sizes)).eval().requires_grad_(False)
    for parameter in core.parameters():  # new weights write nothing to the stream
        parameter.add_(torch.randn_like(parameter) * 0.1)
    text = Text(b"over and over again, " * 40)
    first, middle, last = tuned_lens(core, text, text)
    assert last.divergence == pytest.approx(0, abs=1e-6)
    assert min(first.divergence, middle.divergence) > 1e-4
    x = torch.randint(256, (1, 9))
    assert torch.equal(shortened(core, 3)(x), core(x))  # type: ignore[arg-type]


def test_the_maps_of_the_lens_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "seq_len": 16, "dropout": 0.0}
    core = ByteModel(ModelConfig(kind="dense", mixer="state", **sizes)).eval().requires_grad_(False)
    for parameter in core.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    text = Text(b"over and over again, " * 40)
    for size, small in (("STEPS", 30), ("LENGTH", 32), ("SCORED", 8)):
        monkeypatch.setattr(f"pipeline.projector.lens.{size}", small)
    trained = tuned_lens(core, text, text)[0]
    monkeypatch.setattr("pipeline.projector.lens._train", lambda *_: None)
    assert trained.divergence < 0.8 * tuned_lens(core, text, text)[0].divergence
