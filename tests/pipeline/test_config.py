"""Configs: presets that hold together, values that come back as they were, rules that are named."""

from dataclasses import fields, replace

import pytest
import torch

from h2q.config import GrowthConfig, ModelConfig
from h2q.errors import UserError
from pipeline.config import PRESETS, CorpusConfig, RunConfig, TrainingConfig, describe_presets
from pipeline.sweep.config import SearchConfig, SweepConfig


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_comes_back_from_json(name: str) -> None:
    assert RunConfig.from_dict(PRESETS[name].to_dict()) == PRESETS[name]
    assert name in describe_presets()


def test_an_unknown_field_is_not_ignored() -> None:
    values = PRESETS["laptop"].to_dict()
    values["training"]["stepz"] = 3
    with pytest.raises(UserError, match="TrainingConfig has no field stepz"):
        RunConfig.from_dict(values)


def test_published_sizes() -> None:
    h2q, qrlm = PRESETS["h2q"].model, PRESETS["qrlm"].model
    assert (h2q.dim, h2q.factor, h2q.fixed_rank, h2q.depth, h2q.heads, h2q.seq_len) == (768, 32, 8, 12, 8, 128)
    assert (qrlm.dim, qrlm.factor, qrlm.fixed_rank, qrlm.depth, qrlm.seq_len, qrlm.max_rank) == (
        1024,
        32,
        8,
        8,
        256,
        64,
    )
    assert PRESETS["qrlm"].training.lanes == 48 * PRESETS["qrlm"].accumulate
    assert not PRESETS["h2q-published"].model.final_norm and PRESETS["h2q-published"].model.init == "published"


def test_rules_across_parts_are_named() -> None:
    with pytest.raises(UserError, match=r"training\.lanes must be a multiple of workers × accumulate = 10, got 24"):
        RunConfig(workers=5, accumulate=2)
    with pytest.raises(UserError, match=r"growth\.enabled needs model\.max_rank above"):
        replace(RunConfig(), growth=replace(RunConfig().growth, enabled=True))
    with pytest.raises(UserError, match=r"training\.learning_rate must be positive, got 0"):
        TrainingConfig(learning_rate=0)


def test_a_seed_that_torch_does_not_take_is_refused_of_a_sweep_its_last_one_too() -> None:
    most = TrainingConfig(seed=2**64 - 1)
    torch.manual_seed(most.seed)
    for seed in (-1, 2**64):
        with pytest.raises(UserError, match=rf"training\.seed must be at least 0 and below 2\^64, got {seed}"):
            TrainingConfig(seed=seed)
    run, space = RunConfig(training=most), ("model.depth=1,2",)
    SweepConfig(run=run, search=SearchConfig(space=space))
    with pytest.raises(UserError, match=rf"training\.seed must be .*, got {2**64}"):
        SweepConfig(run=run, search=SearchConfig(space=space, seeds=2))


@pytest.mark.parametrize("part", [TrainingConfig, ModelConfig, GrowthConfig, CorpusConfig, SearchConfig])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_not_finite_is_refused_wherever_one_is_taken(part: type, value: float) -> None:
    numbers = [field.name for field in fields(part) if isinstance(field.default, float)]
    assert numbers
    for name in numbers:
        with pytest.raises(UserError, match=rf"\.{name} must be .*, got {value}"):
            part(**{name: value})


@pytest.mark.parametrize(
    ("given", "read"), [("\\n", "\n"), ("\\n\\n", "\n\n"), ("\n", "\n"), ("é\\t€", "é\t€"), ("\\\\n", "\\n"), ("", "")]
)
def test_a_separator_has_the_usual_escapes(given: str, read: str) -> None:
    assert CorpusConfig(separator=given).row_end == read


@pytest.mark.parametrize("given", ["a\\", "\\x1", "\\ud800"])
def test_an_escape_that_says_nothing_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"corpus\.separator must be text"):
        CorpusConfig(separator=given)
