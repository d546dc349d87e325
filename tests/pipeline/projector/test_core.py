"""Any model is a core: of every family and mixer, grown, reversible, imported; it is read, and stays what it is."""

from typing import Any

import pytest
import torch

from h2q.config import BoundProjector, ModelConfig
from h2q.model import ByteModel
from h2q.projector import Projector
from pipeline.projector.core import Core
from pipeline.projector.lens import tuned_lens
from tests.pipeline.projector.test_lens import Text

DECODER = ModelConfig(kind="dense", mixer="state", dim=16, depth=1, heads=2, factor=4, halves=False, seq_len=16)
STATE = {"mixer": "state", "feed_forward": False}


@pytest.mark.parametrize(
    "changes",
    [
        STATE,
        {"mixer": "both", "factors": "per-block"},
        {"mixer": "state", "kind": "dense", "halves": False, "rotation": "quaternion", "ngrams": "2:9x4"},
        {"mixer": "state", "max_rank": 4},
        {**STATE, "depth": 3, "memory": "reversible", "tied_embeddings": False},
        {"mixer": "attention", "init": "published", "head_layout": "published", "final_norm": False},
    ],
    ids=["shared", "both", "dense", "grown", "reversible", "imported"],
)
def test_a_core_is_read_and_stays_what_it_is(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.projector.lens.STEPS", 2)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "fixed_rank": 2, "seq_len": 16}
    model = ByteModel(ModelConfig(**(sizes | changes)))
    if model.config.max_rank:
        model.set_ranks(2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    given = "moment" if model.config.carries else "stream"
    core = Core(model, given)
    asked = BoundProjector(core="", sha256="", core_model=model.config, last=16, next=4, rank=6, given=given)  # type: ignore[arg-type]
    features, after = core.moment(torch.randint(256, (3, 16)), core.new_state(3))
    assert features.shape == (3, asked.features) and features.isfinite().all()
    projector = Projector(DECODER, asked)
    assert projector.new_state(3).shape == after.shape
    projector.standardise(features)
    assert all(logits.isfinite().all() for logits in projector(features, *(2 * [torch.randint(256, (3, 4))])))
    depths = tuned_lens(model, Text(b"over and over again, " * 9), Text(b"again and over " * 9))
    assert len(depths) == model.config.depth and depths[-1].divergence == pytest.approx(0, abs=1e-5)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
