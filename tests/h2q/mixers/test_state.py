"""The state: chunk by chunk it is one long sequence, whatever the model around it; rotations keep its norm."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.growth import grow
from h2q.kernels.scan import rotated_scan
from h2q.mixers.state import GatedState, rotation
from h2q.model import ByteModel

VARIANTS = [
    {},
    {"rotation": "phase"},
    {"rotation": "quaternion"},
    {"kind": "dense"},
    {"halves": False, "phase_rotation": False, "dim": 32},
    {"memory": "reversible"},
    {"ngrams": "2:50x3,4:40x5", "feed_forward": False, "depth": 3},
    {"ngrams": "3:50x8", "feed_forward": False, "memory": "reversible", "depth": 3},
    {"ngrams": "9:50x8", "kind": "dense", "feed_forward": False, "halves": False, "phase_rotation": False, "dim": 32},
]


@settings(max_examples=5)
@given(length=st.integers(1, 40), cuts=st.sets(st.integers(1, 39)), seed=st.integers(0, 999))
@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_of_chunks_are_those_of_one_long_sequence(lively, changes, length, cuts, seed):
    model = lively(**changes)
    x = torch.randint(256, (3, length), generator=torch.Generator().manual_seed(seed))
    edges = [0, *sorted(cut for cut in cuts if cut < length), length]
    state, chunks = model.new_state(3), []
    for first, last in itertools.pairwise(edges):
        logits, state = model(x[:, first:last], state=state)
        chunks.append(logits)
    whole, end = model(x, state=model.new_state(3))
    torch.testing.assert_close(torch.cat(chunks, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, end, rtol=1e-10, atol=1e-10)
    assert torch.equal(model(x), whole)


@pytest.mark.parametrize("mixer", ["state", "both"])
def test_both_cut_into_chunks_is_one_window(lively, mixer):
    """Attention of `both` starts over with every chunk of `seq_len` bytes, alone or in a longer window."""
    model = lively(mixer=mixer)
    x = torch.randint(256, (2, 24))
    state, chunks = model.new_state(2), []
    for chunk in x.split(8, dim=1):
        logits, state = model(chunk, state=state)
        chunks.append(logits)
    whole, end = model(x, state=model.new_state(2))
    torch.testing.assert_close(torch.cat(chunks, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, end, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(whole[:, 8:16], model(x[:, 8:16])), "what came before counts"


@pytest.mark.parametrize("changes", [{"mixer": mixer} for mixer in ("state", "both")] + VARIANTS[1:3] + VARIANTS[6:7])
def test_the_reversible_backward_takes_a_state_in_and_out(lively, changes):
    found = []
    x, generator = torch.randint(256, (2, 8)), torch.Generator().manual_seed(1)
    weights = torch.randn(2, 4, 32, generator=generator, dtype=torch.float64)
    for memory in ("store", "reversible"):
        model = lively(memory=memory, **changes)
        start = (0.5 * torch.ones_like(model.new_state(2))).requires_grad_()
        reset = torch.zeros(2, 8, dtype=torch.bool)
        reset[1, 3] = True
        logits, state = model(x, state=start, reset=reset)
        (logits.square().mean() + (state * weights[:, : state.shape[1]]).sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert all(gradient is not None for gradient in gradients)
        found.append([logits, state, start.grad, *gradients])
    for store, reversible in zip(*found):
        torch.testing.assert_close(store, reversible, rtol=1e-8, atol=1e-10)
    assert found[0][2][0, : changes.get("depth", 2)].abs().min() > 0, "the first lane remembers its start"


@pytest.mark.parametrize("changes", [{}, *VARIANTS[6:]])
def test_a_reset_is_a_fresh_start(lively, changes):
    model = lively(**changes)
    x, reset = torch.randint(256, (2, 12)), torch.zeros(2, 12, dtype=torch.bool)
    reset[0, 5] = True
    logits, _ = model(x, state=torch.ones_like(model.new_state(2)), reset=reset)
    fresh = model(x[:, 5:])
    torch.testing.assert_close(logits[0, 5:], fresh[0], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(logits[1, 5:], fresh[1])


@pytest.mark.parametrize("mixer", ["state", "both"])
def test_growth_leaves_logits_and_state_as_they_are(lively, mixer):
    model = lively(mixer=mixer, max_rank=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".factors"):
                parameter[2:] = 0
    x, start = torch.randint(256, (2, 8)), torch.ones_like(model.new_state(2))
    before = model(x, state=start)
    grow(model, "all")
    for a, b in zip(before, model(x, state=start)):
        assert torch.equal(a, b)


def test_half_lives_start_log_spaced():
    torch.manual_seed(0)
    block = ByteModel(ModelConfig(mixer="state", kind="dense", dim=256, depth=1)).blocks[0]
    half_lives = block.mixer.half_lives().sort().values  # type: ignore[operator, union-attr]
    assert half_lives[0].item() == pytest.approx(1, rel=1e-3) and half_lives[-1].item() == pytest.approx(88, rel=1e-3)
    steps = half_lives.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-2, atol=1e-4)


def test_a_channel_halves_in_its_half_life():
    mixer: Any = GatedState(ModelConfig(mixer="state", kind="dense", dim=8, depth=1, heads=1, factor=1))
    mixer.reset()
    mixer.c_proj.bias.data.fill_(math.log(0.5 ** (1 / 7) / (1 - 0.5 ** (1 / 7))))
    torch.testing.assert_close(mixer.half_lives(), torch.full((4,), 7.0))
    _, state = mixer(torch.zeros(1, 7, 4), None, torch.ones(1, 4))
    torch.testing.assert_close(state, torch.full((1, 4), 0.5))


@given(seed=st.integers(0, 999), size=st.sampled_from([0.0, 1e-9, 1.0, 30.0]))
@pytest.mark.parametrize("kind", ["phase", "quaternion"])
def test_without_decay_and_input_the_norm_of_the_state_is_constant(kind, seed, size):
    generator = torch.Generator().manual_seed(seed)
    vector = size * torch.randn(60, 3, 2, 5, dtype=torch.float64, generator=generator)
    start = torch.randn(4, 2, 5, dtype=torch.float64, generator=generator)
    turns = rotation(vector, kind)
    states = rotated_scan(turns, torch.zeros(60, 4, 2, 5, dtype=torch.float64), start)
    torch.testing.assert_close(states.norm(dim=1), start.norm(dim=0).expand(60, 2, 5), rtol=1e-9, atol=1e-9)


def test_quaternions_do_not_commute_and_phases_do():
    vectors = torch.randn(2, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).view(4, 1, 1)
    none = torch.zeros(2, 4, 1, 1, dtype=torch.float64)
    for kind, commutes in (("phase", True), ("quaternion", False)):
        turns = rotation(vectors, kind)
        one, other = (rotated_scan(pair, none, start)[-1] for pair in (turns, turns.flip(0)))
        assert torch.allclose(one, other) == commutes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mixer": "memory"}, "model.mixer must be one of attention, state, both"),
        ({"mixer": "attention", "rotation": "phase"}, "model.rotation phase"),
        ({"kind": "dense", "dim": 12, "heads": 1, "phase_rotation": False, "rotation": "quaternion"}, "multiple of 4"),
        ({"head_layout": "published"}, "model.head_layout published"),
        ({"mixer": "attention", "positions": "none", "head_layout": "published"}, "model.head_layout published"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(lively, changes, named):
    with pytest.raises(UserError) as error:
        lively(**changes)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_a_state_of_another_model_or_number_of_lanes_is_refused(lively):
    model, x = lively(), torch.randint(256, (2, 8))
    for state in (model.new_state(3), lively(depth=3).new_state(2), lively(dim=128).new_state(2)):
        with pytest.raises(UserError, match=r"the state must be \(lanes, depth, size\) = \(2, 2, 32\)"):
            model(x, state=state)


def test_a_model_without_positions_reads_windows_of_any_length(lively):
    for changes in ({}, {"mixer": "both"}, {"mixer": "attention", "positions": "relative"}):
        model = lively(**changes)
        assert model.pos_emb is None and model(torch.randint(256, (1, 50))).shape == (1, 50, 256)
    with pytest.raises(UserError, match="longer than the positions"):
        lively(mixer="attention")(torch.randint(256, (1, 50)))
