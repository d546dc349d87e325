"""A model of shapes alone is the model without its values."""

import pytest
import torch

from h2q.config import ModelConfig
from h2q.layers import FAMILIES
from h2q.model import ByteModel
from h2q.shapes import shapes_only


@pytest.mark.parametrize("kind", FAMILIES)
def test_shapes_and_dtypes_are_those_of_the_model_and_nothing_is_drawn(kind: str) -> None:
    config = ModelConfig(
        dim=64,
        depth=2,
        heads=2,
        factor=8,
        fixed_rank=2,
        max_rank=4,
        seq_len=16,
        kind=kind,
        mixer="both",
        ngrams="2:9x4",
    )
    before = torch.random.get_rng_state()
    with shapes_only():
        outline = ByteModel(config).state_dict()
    assert before.equal(torch.random.get_rng_state())
    assert all(tensor.is_meta for tensor in outline.values())
    whole = ByteModel(config).state_dict()
    assert [(name, tensor.shape, tensor.dtype) for name, tensor in outline.items()] == [
        (name, tensor.shape, tensor.dtype) for name, tensor in whole.items()
    ]
