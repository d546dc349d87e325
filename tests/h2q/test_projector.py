"""A projector writes what it is told of a state, whatever its decoder, its order and the length."""

from typing import Any

import pytest
import torch

from h2q.config import BoundProjector, ModelConfig
from h2q.projector import Projector

CORE = ModelConfig(kind="dense", mixer="state", dim=16, depth=2, heads=2, factor=4, halves=False, seq_len=8)
DECODERS: list[dict[str, Any]] = [
    {"kind": "dense", "mixer": "state", "halves": False},
    {"kind": "hamilton", "mixer": "attention", "fixed_rank": 1},
    {"kind": "dense", "mixer": "both", "ngrams": "2:16x4"},
]


def new_projector(decoder: dict[str, Any], **changes: Any) -> Projector:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"dim": 32, "depth": 1, "heads": 2, "factor": 4, "seq_len": 8, "dropout": 0.0}
    sizes |= {"phase_rotation": False} | decoder
    config = ModelConfig(**sizes)
    asked: dict[str, Any] = {"last": 8, "next": 4, "rank": 6} | changes
    model = Projector(config, BoundProjector(core="", sha256="", core_model=CORE, **asked))
    with torch.no_grad():  # New weights write nothing to the stream: what comes next would not depend on anything.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_written_freely_is_the_likeliest_behind_what_was_written(decoder: dict[str, Any], ahead: bool) -> None:
    model = new_projector(decoder)
    features = torch.randn(3, model.projector.features)
    written = model.freely(features, 4, ahead=ahead)
    logits = model(features, written, written)[int(ahead)]
    assert torch.equal(logits.argmax(-1), written)


@pytest.mark.parametrize("order", ["newest-first", "in-order"])
def test_a_byte_is_told_the_same_of_its_distance_whatever_the_order_and_the_length(order: str) -> None:
    model = new_projector(DECODERS[0], order=order)
    channels = torch.randn(2, 6)
    far, near = (model.in_order(model._added(channels, model._places(length, False))) for length in (8, 3))
    assert torch.equal(far[:, -3:], near)  # as they stand in the text, the nearest last


def test_a_moment_without_a_state_is_told_nothing_and_one_with_it_something() -> None:
    model = new_projector(DECODERS[0])
    features, text = torch.randn(2, model.projector.features), torch.randint(256, (2, 4))
    text[1] = text[0]
    with_state, _ = model(features, text, text)
    assert not torch.allclose(with_state[0], with_state[1])
    features[:] = torch.nan
    without, _ = model(features, text, text)
    assert without.isfinite().all() and torch.equal(without[0], without[1])


def test_the_numbers_of_a_state_are_standardised_and_a_wild_one_is_cut_off() -> None:
    model, scale = new_projector(DECODERS[0]), torch.logspace(-3, 3, 48)
    seen = torch.randn(500, 48) * scale + 5
    model.standardise(seen)
    text = torch.randint(256, (1, 4))
    wild, wilder = (model(seen[:1] + size * scale, text, text)[0] for size in (1e3, 1e6))
    assert torch.equal(wild, wilder)
    assert not torch.equal(wild, model(seen[:1], text, text)[0])
