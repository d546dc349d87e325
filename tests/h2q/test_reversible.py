"""The reversible backward: the inverse undoes the blocks, and gradients equal those of storing activations."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from h2q.block import Block
from h2q.config import ModelConfig
from h2q.growth import grow
from h2q.model import ByteModel
from h2q.reversible import run_reversible_ref


def pair(depth: int, **changes) -> tuple[ByteModel, ByteModel]:
    """The same lively model twice: storing activations, and reversible."""
    sizes = {"dim": 64, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 12, "dropout": 0.0}
    config = ModelConfig(**{**sizes, "depth": depth, **changes})
    torch.manual_seed(0)
    store, reversible = ByteModel(config), ByteModel(replace(config, memory="reversible"))
    with torch.no_grad():
        for name, parameter in store.named_parameters():
            if name.endswith((".factors", ".bias", "weight")) and "norm" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    reversible.load_state_dict(store.state_dict())
    return store, reversible


def gradients(model: ByteModel, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    model.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / a.norm()).item()


@pytest.mark.parametrize("depth", [2, 8, 64])
@pytest.mark.parametrize("kind", ["hamilton", "dense"])
def test_gradients_in_float64(depth, kind):
    store, reversible = (model.double() for model in pair(depth, kind=kind))
    x = torch.randint(256, (2, 12))
    assert torch.equal(store(x), reversible(x))
    assert relative(gradients(store, x), gradients(reversible, x)) < 1e-9


@pytest.mark.parametrize(
    "changes",
    [
        {"head_layout": "published"},
        {"phase_rotation": False},
        {"dropout": 0.3},
        {"positions": "relative"},
        {"feed_forward": False},
    ],
)
def test_gradients_of_variants(changes):
    store, reversible = (model.double() for model in pair(3, **changes))
    x = torch.randint(256, (2, 12))
    assert relative(gradients(store, x), gradients(reversible, x)) < 1e-9


@pytest.mark.parametrize(("dtype", "bound"), [(None, 1e-5), (torch.bfloat16, 1e-5), (torch.float16, 5e-3)])
def test_the_stream_is_rebuilt_exactly_in_low_precision(dtype, bound):
    """Against plain autograd of the same forward pass: what differs is only how gradients are summed (float16 without
    loss scaling rounds the small ones of them coarsely)."""
    _, reversible = pair(24)
    x = torch.randint(256, (2, 12))
    rebuilt = gradients(reversible, x, dtype)
    with patch("h2q.model.run_reversible", run_reversible_ref):
        stored = gradients(reversible, x, dtype)
    assert relative(stored, rebuilt) < bound


def test_float32_gradients_are_those_of_storing_activations():
    store, reversible = pair(24)
    x = torch.randint(256, (2, 12))
    torch.testing.assert_close(store(x), reversible(x), rtol=1e-4, atol=1e-5)
    assert relative(gradients(store, x), gradients(reversible, x)) < 5e-4


def test_inverse_after_forward_is_the_identity():
    store, _ = pair(1)
    block = store.blocks[0].double()
    assert isinstance(block, Block) and store.bank is not None
    first, second = torch.randn(2, 2, 12, 32, dtype=torch.float64)
    matrices = store.bank.matrices(2).double()
    ahead = first + block.mixer_branch(second, matrices, torch.float64)[0]
    after = second + block.ffn_branch(ahead, matrices, torch.float64)
    again = after - block.ffn_branch(ahead, matrices, torch.float64)
    torch.testing.assert_close(again, second, rtol=0, atol=1e-14)
    back = ahead - block.mixer_branch(again, matrices, torch.float64)[0]
    torch.testing.assert_close(back, first, rtol=0, atol=1e-13)


def test_each_parameter_is_given_its_gradient_once():
    """A wrapper such as DistributedDataParallel counts these calls, also for the bank that every layer shares."""
    _, model = pair(4)
    calls: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _, name=name: calls.__setitem__(name, calls.get(name, 0) + 1)
        )
    gradients(model, torch.randint(256, (2, 12)))
    assert calls == {name: 1 for name, _ in model.named_parameters()}


def test_energy_and_growth():
    store, reversible = pair(3, max_rank=3)
    for model in (store, reversible):
        grow(model)
    x = torch.randint(256, (2, 12))
    logits, energy = store(x, energy=True)
    logits_too, energy_too = reversible(x, energy=True)
    torch.testing.assert_close(logits, logits_too)
    torch.testing.assert_close(energy, energy_too)
    assert energy.shape == (3,) and not energy.requires_grad
    gradients(reversible, x)
    factors = [p.grad for name, p in reversible.named_parameters() if name.endswith("ffn.fc1.factors")]
    assert all(gradient is not None and gradient[2].abs().sum() > 0 for gradient in factors)


def test_frozen_parameters_are_left_out():
    store, reversible = (model.double() for model in pair(2))
    for model in (store, reversible):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("q_proj" not in name)
    x = torch.randint(256, (2, 12))
    assert relative(gradients(store, x), gradients(reversible, x)) < 1e-9
