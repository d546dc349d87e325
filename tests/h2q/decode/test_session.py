"""A session reads byte by byte what the full forward pass reads at once, and goes on where another one stopped."""

import sys

import pytest
import torch

from h2q.config import SamplingConfig
from h2q.decode.cache import decoder
from h2q.decode.session import Session
from h2q.errors import UserError
from h2q.generate import Memory, generate_batch, stream

VARIANTS = [
    {},
    {"mixer": "both"},
    {"rotation": "phase"},
    {"rotation": "quaternion"},
    {"kind": "dense"},
    {"halves": False, "phase_rotation": False, "dim": 32},
    {"mixer": "both", "seq_len": 1, "positions": "none"},
    {"max_rank": 4, "final_norm": False, "tied_embeddings": False},
    {"ngrams": "2:50x30,4:40x9", "feed_forward": False, "depth": 3},
    {"ngrams": "9:50x8", "mixer": "both"},
]


def text(length: int) -> bytes:
    return bytes(torch.randint(256, (length,), generator=torch.Generator().manual_seed(1)).tolist())


@pytest.mark.parametrize("products", ["weights", "factors"])
@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_are_those_of_the_full_forward(lively, changes, products):
    model, data = lively(dropout=0.5, **changes), text(30)
    whole = model.eval()(torch.tensor([list(data)]))[0]
    session = Session(model, products)
    for byte, logits in zip(data, whole):
        torch.testing.assert_close(session.read(bytes((byte,))), logits, rtol=1e-10, atol=1e-10)
    for cuts in ([30], [1, 29], [16, 14], [3, 20, 7]):
        session, rest = Session(model, products), data
        for length in cuts:
            logits, rest = session.read(rest[:length]), rest[length:]
        torch.testing.assert_close(logits, whole[-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("changes", VARIANTS)
def test_what_is_saved_goes_on_as_if_it_had_not_stopped(lively, changes):
    model, data = lively(dropout=0.5, **changes).float(), text(25)
    going, stopping = Session(model), Session(model)
    for session in (going, stopping):
        session.read(data[:20])
    again = Session(model)
    again.read(b"something else")
    again.resume(stopping.saved())
    for byte in data[20:]:
        assert torch.equal(going.read(bytes((byte,))), again.read(bytes((byte,))))


def test_a_memory_goes_on_from_tensors_and_refuses_what_is_damaged(lively):
    model, config = lively(dropout=0.5, mixer="both"), SamplingConfig(seed=3)
    memory = Memory(model, seed=3)
    first = bytes(stream(model, b"The ", 10, config, memory=memory))
    saved = memory.saved()
    again = Memory(model, seed=0)
    again.resume(saved)
    second = bytes(stream(model, b"", 10, config, memory=again))
    assert first + second == bytes(stream(model, b"The ", 20, config))
    another = Memory(model, seed=0)
    another.resume(saved, seed=4)
    assert bytes(stream(model, b"", 10, config, memory=another)) != second
    for damage in (
        {"random": -saved["random"]},
        {"random": saved["random"][:5]},
        {"random": saved["random"].float()},
        {"unread": saved["unread"].repeat(2)},
        {"unread": saved["unread"].long() + 999},
        {"more": saved["unread"]},
    ):
        with pytest.raises(UserError, match="the state") as error:
            Memory(model, seed=0).resume(saved | damage)
        assert "\n" not in str(error.value)
    tabled = Session(lively(ngrams="2:allx4"))
    tabled.read(b"a")
    wrong = tabled.saved()
    wrong["state"] = wrong["state"] + 999
    with pytest.raises(UserError, match="its last bytes are none"):
        tabled.resume(wrong)
    with pytest.raises(UserError, match="the state"):
        Memory(model, seed=0).resume({name: saved[name] for name in saved if name != "random"})


def test_a_row_of_a_table_costs_a_session_nothing(lively):
    model = lively(ngrams="2:allx1")
    before = sys.getallocatedblocks()
    session = Session(model)
    assert sys.getallocatedblocks() - before < 257**2
    assert session.read(b"a").isfinite().all()


@pytest.mark.parametrize("mixer", ["state", "both"])
def test_writing_in_pieces_is_writing_at_once(lively, mixer):
    model, config = lively(dropout=0.5, mixer=mixer), SamplingConfig(seed=3)
    whole = bytes(stream(model, b"The ", 40, config))
    memory = Memory(model, seed=3)
    pieces = [bytes(stream(model, prompt, 10, config, memory=memory)) for prompt in (b"The ", b"", b"", b"")]
    assert b"".join(pieces) == whole
    assert bytes(stream(model, b"The ", 40, config, stop=whole[7:9])) == whole[:9]
    assert generate_batch(model, [b"The ", b"A longer "], 40, config)[0] == whole


def test_a_state_knows_what_lies_far_behind(lively):
    model = lively()
    with torch.no_grad():
        for block in model.blocks:
            block.state.c_proj.bias.add_(5)  # type: ignore[operator, union-attr]
    one, other = (Session(model).read(first + text(60)) for first in (b"a", b"b"))
    assert (one - other).abs().max() > 1e-6, "no window of 8 bytes knows the first"


def test_what_is_of_another_model_is_refused_in_one_line(lively):
    saved = Session(lively()).saved()
    for other in ({"depth": 3}, {"dim": 128}, {"mixer": "both"}):
        with pytest.raises(UserError, match="the state is of another model") as error:
            Session(lively(**other)).resume(saved)
        assert "\n" not in str(error.value)
    retrained = lively()
    retrained.token_emb.weight.data[0] += 1
    with pytest.raises(UserError, match=r"of another model, with sha256 [0-9a-f]{16}, here [0-9a-f]{16}"):
        Session(retrained).resume(saved)
    with pytest.raises(UserError, match="not finite"):
        Session(lively()).resume(saved | {"state": saved["state"] * float("nan")})
    with pytest.raises(UserError, match=r"model\.mixer is attention"):
        Session(lively(mixer="attention"))
    with pytest.raises(UserError, match="carries a state"):
        decoder(lively())
    with pytest.raises(UserError, match="at least one byte"):
        stream(lively(), b"", 3, SamplingConfig())
