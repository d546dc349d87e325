"""The model end to end: shapes, causality, precision, errors."""

import pytest
import torch

from h2q.axioms import independence, orthogonality
from h2q.config import ModelConfig, UserError
from h2q.generate import generate
from h2q.model import ByteModel


def small(**changes) -> ModelConfig:
    return ModelConfig(
        **{"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 3, "seq_len": 16, "dropout": 0.0, **changes}
    )


def lively(config: ModelConfig) -> ByteModel:
    """A model in which no parameter is zero, so that every path carries something."""
    torch.manual_seed(0)
    model = ByteModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    return model


VARIANTS = [
    {},
    {"halves": False, "phase_rotation": False, "dim": 32},
    {"kind": "dense"},
    {"init": "published", "final_norm": False, "tied_embeddings": False},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_changing_a_byte_changes_no_logit_before_it(changes):
    model = lively(small(**changes))
    x = torch.randint(256, (2, 16))
    y = x.clone()
    y[:, 9] = (y[:, 9] + 1) % 256
    before, after = model(x), model(y)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9], after[:, 9])
    assert not torch.equal(before[:, 15], after[:, 15])


@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_of_a_prefix_do_not_depend_on_the_length_of_the_window(changes):
    model = lively(small(**changes))
    x = torch.randint(256, (2, 16))
    torch.testing.assert_close(model(x)[:, :7], model(x[:, :7]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 4), torch.zeros(4).long(), torch.zeros(0, 4).long(), torch.zeros(1, 17).long()]
)
def test_bad_input_is_a_users_mistake(x):
    with pytest.raises(UserError):
        ByteModel(small())(x)


def test_axioms_are_finite_and_differentiable():
    model = ByteModel(small())
    (orthogonality(model) + independence(model)).backward()
    gradient = dict(model.named_parameters())["blocks.0.attention.q_proj.factors"].grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_generation_is_reproducible():
    model = lively(small())
    assert generate(model, b"abc", 20, seed=1) == generate(model, b"abc", 20, seed=1)
    assert len(generate(model, b"abc", 20, temperature=0)) == 20
