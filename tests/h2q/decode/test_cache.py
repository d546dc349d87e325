"""The law of decoding: logits of a cached step are those of the full forward pass, at every position."""

from itertools import pairwise

import pytest
import torch

from h2q.config import ModelConfig
from h2q.decode.cache import Cached, Recomputing, decoder
from h2q.generate import slide
from h2q.model import ByteModel

SMALL = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 3, "seq_len": 12, "dropout": 0.5}

VARIANTS = [
    {},
    {"phase_rotation": False},
    {"halves": False, "phase_rotation": False, "dim": 32},
    {"ngrams": "2:50x30,4:40x5"},
    {"ngrams": "14:50x8", "feed_forward": False, "depth": 3},
    {"halves": False, "heads": 4, "dim": 64},
    {"halves": True, "dim": 192, "heads": 4, "factor": 8},
    {"kind": "dense"},
    {"kind": "dense", "halves": False, "tied_embeddings": False, "final_norm": False},
    {"init": "published", "final_norm": False, "tied_embeddings": False},
    {"memory": "reversible"},
    {"seq_len": 1},
    {"positions": "relative"},
    {"positions": "none"},
]


def lively(changes: dict) -> ByteModel:
    """A model in which no parameter is zero, so that every path carries something."""
    torch.manual_seed(0)
    model = ByteModel(ModelConfig(**{**SMALL, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.15) if "norm" not in name else parameter.add_(torch.randn_like(parameter) / 4)
    return model


def contexts(window: int, start: int, count: int) -> list[bytes]:
    """What generation asks for: one byte more at a time, sliding when the window is full."""
    context = bytes(torch.randint(256, (start,)).tolist())
    asked = [context]
    for byte in torch.randint(256, (count,)).tolist():
        context = slide(context, window) + bytes((byte,))
        asked.append(context)
    return asked


@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_are_those_of_the_full_forward_across_slides(changes):
    """Also where weights are applied as factors."""
    model = lively(changes)
    window = model.config.seq_len
    asked = contexts(window, min(3, window), 2 * window)
    lengths = [len(context) for context in asked]
    assert max(lengths) == window and (window == 1 or any(b < a for a, b in pairwise(lengths)))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model.to(dtype)
        naive = Recomputing(model)
        both = [Cached(model, factored=factored) for factored in {False, model.bank is not None}]
        for context in asked:
            wanted = naive(context)
            for cached in both:
                torch.testing.assert_close(cached(context), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ranks", [(3, 5), (5, 5), (2, 4)])
def test_grown_ranks_take_part(ranks):
    model = lively({"max_rank": 5, "halves": False, "dim": 64}).double()
    grown = [torch.zeros(256)]
    for now in ((1, 1), ranks):
        model.set_ranks(*now)
        naive = Recomputing(model)
        for form in ("factors", "weights"):
            cached = decoder(model, form)
            for context in contexts(12, 2, 14):
                torch.testing.assert_close(cached(context), naive(context), rtol=1e-12, atol=1e-12)
        grown.append(naive(b"abc"))
    assert not torch.allclose(grown[1], grown[2])


def test_any_context_may_follow_any_other():
    model = lively({}).double()
    naive, cached = Recomputing(model), decoder(model)
    for context in (b"abcd", b"abcde", b"abcde", b"abcdX", b"abcdXY", b"Z", b"ZY", b"abcd", b"abcdef", b"bcdefg"):
        torch.testing.assert_close(cached(context), naive(context), rtol=1e-12, atol=1e-12)


def test_the_published_head_layout_is_computed_anew():
    model = lively({"head_layout": "published"})
    assert isinstance(decoder(model), Recomputing)
    assert torch.equal(decoder(model)(b"abc"), model.eval()(torch.tensor([list(b"abc")]))[0, -1])


def test_the_model_keeps_its_mode_and_dropout_is_off():
    model = lively({})
    for now in (decoder(model), Recomputing(model)):
        model.train()
        first = now(b"abc").clone()
        assert model.training and torch.equal(first, now(b"abc"))


def test_large_weights_are_applied_as_factors_on_a_cpu():
    small, large = lively({}), ByteModel(ModelConfig(dim=1024, depth=2))
    first, second = decoder(small), decoder(large)
    assert isinstance(first, Cached) and isinstance(second, Cached)
    assert first._tokens.shape[2:] == (32,) and second._tokens.shape[2:] == (16, 32)


@pytest.mark.gpu
def test_a_model_on_a_gpu_decodes_the_same():
    model = lively({}).double().cuda()
    cached, naive = decoder(model), Recomputing(model)
    for context in contexts(12, 2, 20):
        torch.testing.assert_close(cached(context), naive(context), rtol=1e-12, atol=1e-12)
