"""Every rule on a model's shape names itself and the values."""

import pytest

from h2q.config import GrowthConfig, ModelConfig
from h2q.errors import UserError

SMALL: dict = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 63}, "model.dim must be even.*63"),
        ({"dim": 72}, "multiple of 4 × model.factor = 32.*--model.dim 64"),
        ({"dim": 0}, "model.dim must be at least 1, got 0"),
        ({"heads": 3}, "model.heads must divide.*32, got 3"),
        ({"heads": 16}, "must be a multiple of 4"),
        ({"fixed_rank": 5}, r"at most 4 \(S/4\)² = 4, the number of independent Hamilton matrices.*got 5"),
        ({"max_rank": 9}, "model.max_rank must be at most.*got 9"),
        ({"max_rank": 1}, "model.max_rank must be at least model.fixed_rank = 2, got 1"),
        ({"dropout": 1.0}, "model.dropout must be at least 0 and below 1, got 1.0"),
        ({"ffn_expansion": 4}, "Hamilton layers are square: model.ffn_expansion must be 1, got 4"),
        ({"halves": False, "memory": "reversible"}, "reversible needs model.halves"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_dict({**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": 0}, "growth.interval must be at least 1 step, got 0"),
        ({"threshold": 0.0}, "growth.threshold must be positive, got 0.0"),
        ({"lr_scale": 1.5}, "growth.lr_scale must be above 0 and at most 1, got 1.5"),
        ({"window": 10, "lookback": 5}, "growth.lookback must be at least growth.window = 10, got 5"),
        ({"cooldown": -1}, "growth.cooldown must be at least 0 steps, got -1"),
    ],
)
def test_a_growth_rule_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        GrowthConfig(**changes)


def test_a_config_comes_back_from_its_dictionary_and_knows_its_fields():
    config = ModelConfig.from_dict(SMALL)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match="no field ranks"):
        ModelConfig.from_dict({**SMALL, "ranks": 2})
