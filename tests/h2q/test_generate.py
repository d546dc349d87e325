"""Sampling: which bytes may be drawn, how often, where it ends, and that it can be repeated."""

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from h2q.config import ModelConfig, SamplingConfig
from h2q.decode.cache import Recomputing
from h2q.errors import UserError
from h2q.generate import generate, sample, slide, stream
from h2q.model import ByteModel


def model(**changes) -> ByteModel:
    torch.manual_seed(0)
    made = ByteModel(
        ModelConfig(**{"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 12, **changes})
    )
    with torch.no_grad():
        made.token_emb.weight.normal_(std=0.2)
    return made


cuts = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 5),
        "top_k": st.none() | st.integers(1, 12),
        "top_p": st.none() | st.floats(0.01, 1),
        "min_p": st.none() | st.floats(0, 1),
    }
)


def allowed(logits: list[float], temperature: float, top_k, top_p, min_p) -> set[int]:
    """The three cuts, each as it is defined, one byte after another."""
    weights = torch.tensor(logits, dtype=torch.float64).div(temperature).softmax(0).tolist()
    order = sorted(range(len(weights)), key=lambda byte: -weights[byte])
    kept = set(order[:top_k])
    if top_p is not None:
        total, nucleus = 0.0, set()
        for byte in order:
            if total >= top_p:
                break
            nucleus.add(byte)
            total += weights[byte]
        kept &= nucleus
    if min_p is not None:
        kept &= {byte for byte in order if weights[byte] >= min_p * weights[order[0]]}
    return kept


@given(st.lists(st.floats(-4, 4).map(lambda x: round(x, 2)), min_size=2, max_size=12, unique=True), cuts)
def test_what_may_be_drawn_is_what_the_cuts_define(logits, cut):
    config = SamplingConfig(**cut)
    drawn = {sample(torch.tensor(logits), config, _at(u / 128)) for u in range(128)}
    may = allowed(torch.tensor(logits).double().tolist(), **cut)
    assert drawn <= may or _on_an_edge(logits, cut)
    # Whatever holds a 100th of the probability or more must come up on a grid so fine.
    weights = torch.tensor(logits, dtype=torch.float64).div(config.temperature).softmax(0)
    total = sum(float(weights[byte]) for byte in may)
    likely = {byte for byte in may if weights[byte] / total > 1.1 / 100}
    assert likely <= drawn or _on_an_edge(logits, cut)


def _on_an_edge(logits, cut) -> bool:
    """Whether rounding decides what is allowed: a slightly different cut allows another set."""
    sets = []
    for factor in (1 - 1e-9, 1 + 1e-9):
        top_p, min_p = (None if cut[name] is None else cut[name] * factor for name in ("top_p", "min_p"))
        sets.append(allowed(torch.tensor(logits).double().tolist(), cut["temperature"], cut["top_k"], top_p, min_p))
    return sets[0] != sets[1]


class _at(Random):
    """Random numbers that are always the same one."""

    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


def test_bytes_come_as_often_as_the_model_says():
    logits, random = torch.tensor([0.0, 1.0, 2.0, -1.0]), Random(0)
    counts = Counter(sample(logits, SamplingConfig(temperature=0.7), random) for _ in range(4000))
    expected = (logits / 0.7).softmax(0) * 4000
    squared = sum((counts[i] - float(expected[i])) ** 2 / float(expected[i]) for i in range(4))
    assert squared < 16.3  # χ² with 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-30])
def test_no_temperature_takes_the_likeliest(temperature):
    config = SamplingConfig(temperature=temperature)
    assert {sample(torch.tensor([1.0, 3.0, -50.0]), config, Random(seed)) for seed in range(20)} == {1}


def test_the_last_random_number_below_one_still_draws_a_byte():
    assert sample(torch.zeros(256), SamplingConfig(), _at(1 - 2**-53)) == 255


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones():
    one = model()
    first = generate(one, b"abc", 60, seed=1)
    assert first == generate(one, b"abc", 60, seed=1) and len(first) == 60
    assert first != generate(one, b"abc", 60, seed=2)
    assert generate(one, b"abc", 60, temperature=0, seed=1) == generate(one, b"abc", 60, temperature=0, seed=2)


@pytest.mark.parametrize("length_of_prompt", [1, 11, 12, 13, 40])
def test_kept_and_recomputed_windows_write_the_same(length_of_prompt):
    one, prompt = model().double(), bytes(range(length_of_prompt))
    config = SamplingConfig(seed=3)
    naive = bytes(stream(one, prompt, 50, config, next_logits=Recomputing(one)))
    assert bytes(stream(one, prompt, 50, config)) == naive


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_full_context_slides_by_half_a_window(window, length):
    context = bytes(range(min(window, length)))
    after = slide(context, window)
    if length < window:
        assert after == context
    else:
        assert len(after) == window - max(1, window // 2) and context.endswith(after)


def test_nothing_is_written_behind_the_stop_string():
    one = model()
    free = generate(one, b"abc", 60)
    for start in (0, 7, 30):
        stop = free[start : start + 3]
        assert generate(one, b"abc", 60, stop=stop) == free[: free.index(stop) + 3]
    assert generate(one, b"abc", 60, stop=b"never to be seen") == free


def test_bytes_come_one_at_a_time():
    asked = []

    def count(context: bytes) -> torch.Tensor:
        asked.append(context)
        return torch.zeros(256)

    written = stream(model(), b"abc", 5, SamplingConfig(), next_logits=count)
    assert asked == []
    byte = next(written)
    assert asked == [b"abc"]
    next(written)
    assert asked == [b"abc", b"abc" + bytes((byte,))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": 0}, "top-k"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.5}, "top-p"),
        ({"min_p": -0.1}, "min-p"),
        ({"min_p": 1.1}, "min-p"),
        ({"seed": -1}, "seed"),
        ({"stop": b""}, "stop"),
        ({"length": -1}, "length"),
        ({"prompt": b""}, "prompt"),
    ],
)
def test_bad_input_is_a_users_mistake(changes, message):
    given = {"prompt": b"abc", "length": 4, **changes}
    with pytest.raises(UserError, match=message):
        generate(model(), **given)


def test_a_prompt_of_another_alphabet_is_refused_with_its_place():
    with pytest.raises(UserError, match="0 to 99, got byte 120 at offset 2"):
        generate(model(vocab=100), b"abxc", 4)
    with pytest.raises(UserError, match="300 symbols"):
        generate(model(vocab=300), b"abc", 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_named(value):
    one = model()
    with torch.no_grad():
        one.head.bias[7] = value
    with pytest.raises(UserError, match="not finite"):
        generate(one, b"abc", 4)
