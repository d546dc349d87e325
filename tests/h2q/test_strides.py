"""A model with strides is one model by any cut, in any form, and a code: nothing looks ahead, all sums to one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from h2q.alphabet import ALPHABET, BYTES, CARRIED, MARKERS
from h2q.config import ModelConfig, SamplingConfig
from h2q.decode.cache import decoder
from h2q.decode.lanes import SteppedLanes
from h2q.decode.session import Session
from h2q.decode.static import StaticDecoder
from h2q.errors import UserError
from h2q.generate import Memory, generate_batch, stream
from h2q.growth import grow
from h2q.model import ByteModel

VARIANTS = [
    {},
    {"mixer": "both", "ngrams": "2:50x4"},
    {"kind": "dense", "halves": False, "phase_rotation": False, "ngrams": "3:50x4,2:allx1"},
    pytest.param({"kind": "btt", "feed_forward": False, "depth": 3, "final_norm": False}, marks=pytest.mark.ray),
    {"kind": "phm", "rotation": "quaternion", "tied_embeddings": False},
    pytest.param({"kind": "monarch", "dim": 32, "factor": 4}, marks=pytest.mark.ray),
    pytest.param({"kind": "low_rank"}, marks=pytest.mark.ray),
    {"factors": "per-block", "memory": "reversible"},
]


def documents(length: int, lanes: int = 1) -> Tensor:
    """A picture of 5 × 4 RGB pixels, a sound, a text and a picture again, (lanes, length)."""
    drawn = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(lanes):
        content = torch.randint(BYTES, (length,), generator=drawn).tolist()
        picture, sound = [MARKERS["image"], 0, 5, 0, 4, 3], [MARKERS["audio"], 0, 31, 64, 1, 1]
        parts = [*picture, *content[:60], *sound, *content[60:80], MARKERS["text"], *content[80:90], *picture, *content]
        rows.append(parts[:length])
    return torch.tensor(rows)


@pytest.fixture
def striding(lively):
    def make(**changes) -> ByteModel:
        return lively(**{"strides": "auto", "vocab": ALPHABET, **changes})

    return make


@pytest.mark.parametrize("changes", VARIANTS)
def test_any_cut_into_chunks_is_one_long_sequence(striding, changes):
    model, x = striding(**changes).eval(), documents(128, lanes=2)
    reset = torch.zeros_like(x, dtype=torch.bool)
    reset[0, 66], reset[1, 30] = True, True
    chunk = model.config.seq_len
    with torch.no_grad():
        whole, last = model(x, state=model.new_state(2), reset=reset)
        for size in (chunk, 5 * chunk) if model.config.mixer == "both" else (1, 7, 50):
            state, pieces = model.new_state(2), []
            for part, flags in zip(x.split(size, 1), reset.split(size, 1)):
                logits, state = model(part, state=state, reset=flags)
                pieces.append(logits)
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(state, last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes", [*VARIANTS, {"mixer": "attention", "seq_len": 128}])
def test_probabilities_sum_to_one_and_no_later_symbol_changes_an_earlier_one(striding, changes):
    model, x = striding(**changes).eval(), documents(100)
    x = x[:, :96] if model.config.mixer == "both" else x
    with torch.no_grad():
        logits = model(x)
        sums = logits.softmax(-1).sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        for place in (3, 20, 70, 90):
            other = x.clone()
            other[:, place:] = (x[:, place:] + 1 + torch.randint(ALPHABET - 1, x[:, place:].shape)) % ALPHABET
            changed = model(other)
            assert torch.equal(changed[:, :place], logits[:, :place])
            assert not torch.equal(changed[:, place:], logits[:, place:])


@pytest.mark.parametrize("products", ["weights", "factors"])
@pytest.mark.parametrize("changes", VARIANTS[:4])
def test_a_session_reads_symbol_by_symbol_what_the_model_reads_at_once(striding, changes, products):
    model, data = striding(**changes), documents(110)[0].tolist()
    whole = model.eval()(torch.tensor([data]))[0]
    session = Session(model, products)
    for symbol, logits in zip(data, whole):
        torch.testing.assert_close(session.read([symbol]), logits, rtol=1e-9, atol=1e-9)
    again, half = Session(model, products), Session(model, products)
    half.read(data[:70])
    again.resume(half.saved())
    torch.testing.assert_close(again.read(data[70:]), whole[-1], rtol=1e-9, atol=1e-9)


def test_a_picture_is_read_beyond_the_chunk_and_text_as_without_neighbours(striding):
    model, x = striding().eval(), documents(66)
    with torch.no_grad():
        state = model.new_state(1)
        _, state = model(x[:, :50], state=state)
        above = state.clone()
        assert model.strides is not None
        row = above[0, model.config.depth :].view(-1)
        row[CARRIED - 14] += 1  # The byte a row above the next one, and nothing else that is known.
        one, two = (model(x[:, 50:51], state=each)[0] for each in (state, above))
        assert not torch.equal(one, two)
        text = torch.tensor([[MARKERS["text"], *b"No neighbours here"]])
        before = model(text)
        for name in ("weights", "shapes"):
            getattr(model.strides, name).add_(1)
        assert torch.equal(model(text), before)


def test_gradients_of_the_reversible_form_are_those_of_the_stored_one(striding):
    x, found = documents(90, lanes=2), []
    for memory in ("store", "reversible"):
        model = striding(memory=memory)
        logits, state = model(x, state=model.new_state(2))
        (logits.square().mean() + state[:, : model.config.depth].square().mean()).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(part is not None and part.abs().max() > 0 for part in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-9)


def test_gradients_of_two_micro_batches_are_those_of_one(striding):
    model, x = striding(), documents(60, lanes=4)
    x[2:] = x[2:].roll(9, 1)
    whole = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    halves = [torch.autograd.grad(model(part).square().sum(), list(model.parameters())) for part in x.chunk(2)]
    for one, parts in zip(whole, zip(*halves)):
        torch.testing.assert_close(one, sum(parts), rtol=1e-9, atol=1e-9)


def test_growth_leaves_the_logits_as_they_are():
    torch.manual_seed(0)
    sizes = ModelConfig(dim=64, depth=2, heads=2, factor=8, fixed_rank=2, max_rank=3, mixer="state")
    model, x = ByteModel(replace(sizes, strides="auto", vocab=ALPHABET)).eval(), documents(80)
    with torch.no_grad():
        before = model(x)
        grow(model, "all")
        assert torch.equal(model(x), before)


def test_a_model_without_strides_has_nothing_of_them(lively):
    plain = lively(ngrams="2:50x4")
    assert plain.new_state(3).shape == (3, 3, 32)
    assert not any("strides" in name for name in plain.state_dict())


def test_markers_are_drawn_where_they_are_asked_for_only(striding):
    model, prompt = striding().float(), documents(70)[0].tolist()
    with torch.no_grad():
        model.head.bias[BYTES:] += 30
    config = SamplingConfig(seed=2)
    assert max(stream(model, prompt, 20, config)) < BYTES
    assert min(stream(model, prompt, 20, config, markers=True)) >= BYTES
    memory = Memory(model, seed=2)
    first = list(stream(model, prompt, 5, config, memory=memory, markers=True))
    again = Memory(model, seed=2)
    again.resume(memory.saved())
    assert first + list(stream(model, [], 5, config, memory=again, markers=True)) == list(
        stream(model, prompt, 10, config, markers=True)
    )
    assert generate_batch(model, [bytes(prompt[1:6])], 4, config) == [bytes(stream(model, prompt[1:6], 4, config))]


def test_attention_alone_sees_the_neighbours_in_its_window(striding):
    model, prompt = striding(mixer="attention", seq_len=64), documents(50)[0].tolist()
    whole = model.eval()(torch.tensor([prompt]))[0, -1]
    torch.testing.assert_close(decoder(model)(prompt), whole, rtol=1e-12, atol=1e-12)
    assert len(list(stream(model, prompt, 30, SamplingConfig()))) == 30


def test_what_is_not_written_for_strides_says_so_in_one_line(striding, lively):
    attending, carrying = striding(mixer="attention"), striding()
    for attempt, named in (
        (lambda: StaticDecoder(attending, 1), "model.strides auto"),
        (lambda: SteppedLanes(carrying, carrying.new_state(1)), "--model.strides off"),
        (lambda: lively(strides="auto"), "give --model.vocab 260, got 256"),
        (lambda: striding(head_layout="published", mixer="attention", positions="random"), "--model.strides off"),
    ):
        with pytest.raises(UserError) as error:
            attempt()
        assert named in str(error.value) and "\n" not in str(error.value)
