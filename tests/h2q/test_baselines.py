"""Counts are exact, and a dense baseline is as large as what it is compared with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from h2q.baselines import (
    GRAIN,
    TOLERANCE,
    dense_of_equal_multiply_adds,
    dense_of_equal_parameters,
    generation,
    multiply_adds,
    parameters,
)
from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.config import PRESETS


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    factor, quarter = draw(st.sampled_from([4, 8])), draw(st.integers(1, 3))
    halves = draw(st.booleans())
    width = 4 * quarter * factor
    kind = draw(st.sampled_from(["hamilton", "hamilton", "dense", "phm", "btt", "monarch", "low_rank"]))
    if kind == "monarch":
        factor = 8 * quarter
        width = 4 * factor
    cap = {"hamilton": 4 * quarter**2, "phm": 16, "btt": 4, "low_rank": 16}.get(kind, 4)
    rank = draw(st.integers(2, cap))  # Of one term torch makes a product that it does not count.
    return ModelConfig(
        kind=kind,
        factors=draw(st.sampled_from(["shared", "per-block"])) if kind == "hamilton" else "shared",
        dim=2 * width if halves else width,
        depth=draw(st.integers(1, 3)),
        heads=draw(st.sampled_from([1, 2, 4])),
        factor=factor,
        fixed_rank=rank,
        max_rank=draw(st.none() | st.integers(rank, cap)),
        seq_len=draw(st.sampled_from([8, 24])),
        vocab=draw(st.sampled_from([256, 100])),
        halves=halves,
        phase_rotation=draw(st.booleans()),
        final_norm=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
        ffn_expansion=draw(st.integers(1, 4)) if kind != "hamilton" else 1,
        mixer=draw(st.sampled_from(["attention", "state", "both"])),
        positions=draw(st.sampled_from(["sinusoids", "relative", "none"])),
        feed_forward=draw(st.booleans()),
        ngrams=draw(st.sampled_from(["", "2:30x3,4:7x5"])),
    )


@settings(max_examples=25)
@given(configs())
def test_parameters_are_those_of_the_model(config: ModelConfig) -> None:
    assert parameters(config) == sum(parameter.numel() for parameter in ByteModel(config).parameters())


@settings(max_examples=15)
@given(configs(), st.integers(1, 3))
def test_multiply_adds_are_those_that_torch_counts(config: ModelConfig, lanes: int) -> None:
    model = ByteModel(config).double()  # In float32 torch does not count what oneDNN multiplies.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(lanes, config.seq_len, dtype=torch.int64))
    counted = counter.get_total_flops() // 2  # A multiply-add is two.
    assert lanes * config.seq_len * multiply_adds(config) + generation(config) == counted


@pytest.mark.parametrize(
    ("twin", "count"), [(dense_of_equal_parameters, parameters), (dense_of_equal_multiply_adds, multiply_adds)]
)
@pytest.mark.parametrize("preset", ["laptop", "h2q", "qrlm"])
def test_the_baseline_of_a_preset_is_as_large_and_has_its_proportions(
    preset: str, twin: Callable[[ModelConfig], ModelConfig], count: Callable[[ModelConfig], int]
) -> None:
    config = PRESETS[preset].model
    dense = twin(config)
    assert dense.kind == "dense" and not dense.halves and not dense.phase_rotation and dense.ffn_expansion == 4
    assert count(dense) == pytest.approx(count(config), rel=TOLERANCE)
    assert 1 / 3 < (dense.dim / dense.depth) / (config.dim / config.depth) < 3


def test_a_baseline_is_wide_enough_for_the_longest_ngram() -> None:
    """Of more than two blocks the baseline of the smallest width would be the nearest."""
    config = ModelConfig(dim=128, depth=2, heads=2, factor=8, fixed_rank=2, seq_len=8, ngrams="63:20x2")
    assert dense_of_equal_parameters(config).width >= 63


@settings(max_examples=15)
@given(
    configs(), st.sampled_from([(dense_of_equal_parameters, parameters), (dense_of_equal_multiply_adds, multiply_adds)])
)
def test_no_other_width_comes_nearer_than_one_that_is_off(config: ModelConfig, which: tuple[Any, Any]) -> None:
    twin, count = which
    wanted, dense = count(config), twin(config)
    error = abs(count(dense) / wanted - 1)
    assert dense.vocab == config.vocab and dense.seq_len == config.seq_len
    if error > TOLERANCE:
        fields = dense.to_dict() | {"heads": 1}
        for depth in range(1, 2 * config.depth + 1):
            for dim in range(4 if config.ngrams else GRAIN, 2 * config.dim + 1, GRAIN):
                other = ModelConfig.from_dict(fields | {"dim": dim, "depth": depth})
                heads = other.depth * dim / wanted  # Each head may have a slope.
                assert abs(count(other) / wanted - 1) >= error - heads
