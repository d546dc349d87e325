"""Hamilton layers against their naive formula, and their laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from h2q.bank import StructureBank
from h2q.layers.hamilton import HamiltonLinear, generate_weights, hamilton_linear_ref

sizes = st.integers(1, 3)


def layer_of(rank: int, blocks: int, factor: int, storage: int | None = None) -> tuple[StructureBank, HamiltonLinear]:
    bank, layer = (
        StructureBank(storage or rank, blocks).double(),
        HamiltonLinear(storage or rank, blocks, factor).double(),
    )
    with torch.no_grad():
        for parameter in (*bank.parameters(), *layer.parameters()):
            parameter.normal_()
    return bank, layer


@settings(max_examples=40, deadline=None)
@given(s=sizes, factor=st.integers(1, 9), rank=st.integers(1, 6), batch=st.lists(st.integers(1, 4), max_size=3))
def test_layer_and_gradients_equal_the_naive_formula(s, factor, rank, batch):
    torch.manual_seed(0)
    bank, layer = layer_of(rank, 4 * s, factor, storage=rank + 1)
    x = torch.randn(*batch, 4 * s * factor, dtype=torch.float64, requires_grad=True)
    components, factors = bank.components[:rank], layer.factors[:rank]
    inputs = (x, bank.components, layer.factors, layer.bias)
    fast, naive = layer(x, bank.matrices(rank)), hamilton_linear_ref(x, components, factors, layer.bias)
    torch.testing.assert_close(fast, naive, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(naive)
    pairs = zip(torch.autograd.grad(fast, inputs, direction), torch.autograd.grad(naive, inputs, direction))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_weight_is_the_sum_of_kronecker_products():
    bank, layer = layer_of(3, 8, 5)
    matrices = bank.matrices(3)
    explicit = sum(torch.kron(h, b) for h, b in zip(matrices, layer.factors))
    torch.testing.assert_close(generate_weights(matrices, [layer])[0], explicit, rtol=1e-12, atol=1e-12)


def test_the_layer_is_linear():
    bank, layer = layer_of(2, 4, 6)
    matrices = bank.matrices(2)
    x, y = torch.randn(2, 7, 24, dtype=torch.float64)

    def without_bias(z: torch.Tensor) -> torch.Tensor:
        return layer(z, matrices) - layer.bias

    torch.testing.assert_close(without_bias(2 * x - 3 * y), 2 * without_bias(x) - 3 * without_bias(y))


def test_three_layers_at_once_equal_three_layers():
    bank, first = layer_of(2, 8, 4)
    layers = [first, *(layer_of(2, 8, 4)[1] for _ in range(2))]
    matrices = bank.matrices(2)
    x = torch.randn(5, 32, dtype=torch.float64)
    weights, bias = generate_weights(matrices, layers), torch.cat([layer.bias for layer in layers])
    fused = functional.linear(x, weights.flatten(0, 1), bias)
    torch.testing.assert_close(fused, torch.cat([layer(x, matrices) for layer in layers], dim=-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_weight_is_summed_in_full_precision_and_cast_once(dtype):
    bank, layer = (module.float() for module in layer_of(4, 8, 4))
    assert isinstance(bank, StructureBank) and isinstance(layer, HamiltonLinear)
    matrices = bank.matrices(4)
    weights = generate_weights(matrices, [layer], dtype)
    assert torch.equal(weights, generate_weights(matrices, [layer]).to(dtype))
    weights.float().square().sum().backward()
    assert layer.factors.grad is not None and layer.factors.grad.dtype == torch.float32


def test_ranks_beyond_the_active_ones_get_no_gradient():
    bank, layer = layer_of(2, 4, 3, storage=4)
    layer(torch.randn(5, 12, dtype=torch.float64), bank.matrices(2)).square().sum().backward()
    assert layer.factors.grad is not None and bank.components.grad is not None
    assert (layer.factors.grad[2:] == 0).all() and (bank.components.grad[2:] == 0).all()
    assert (layer.factors.grad[:2] != 0).any()
