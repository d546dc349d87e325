"""The penalties equal their sums, written out."""

import pytest
import torch

from h2q.axioms import independence, orthogonality
from h2q.config import ModelConfig
from h2q.growth import grow
from h2q.layers.hamilton import HamiltonLinear
from h2q.model import ByteModel


def model_of(**changes) -> ByteModel:
    torch.manual_seed(0)
    sizes = {"dim": 64, "depth": 3, "heads": 2, "factor": 4, "fixed_rank": 2, "max_rank": 3, "init": "published"}
    return ByteModel(ModelConfig(**{**sizes, **changes})).double()


def layers(model: ByteModel) -> list[tuple[HamiltonLinear, int]]:
    """The layers that the published sums speak of, with their active ranks."""
    wanted = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2") if model.config.halves else ("q_proj", "fc1")
    return [
        (module, model.ffn_rank if ".ffn." in name else model.mixer_rank)
        for name, module in model.named_modules()
        if isinstance(module, HamiltonLinear) and name.endswith(wanted)
    ]


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("grown", [True, False])
def test_orthogonality_is_the_published_sum(halves, grown):
    model = model_of(halves=halves)
    if grown:
        grow(model)
    eye = torch.eye(4, dtype=torch.float64)
    expected = sum(
        torch.linalg.matrix_norm(layer.factors[r].t() @ layer.factors[r] - eye)
        for layer, rank in layers(model)
        for r in range(rank)
    )
    torch.testing.assert_close(orthogonality(model), torch.as_tensor(expected))
    assert len(layers(model)) == (18 if halves else 6)


def test_the_published_initialisation_contradicts_the_axiom():
    """Rank r starts at (r+1)^-½ times an orthogonal matrix: off by |1/(r+1) − 1| √F, and 0 for r = 0 only."""
    model = model_of()
    per_layer = (1 - 1 / 2) * 4**0.5
    torch.testing.assert_close(orthogonality(model).item(), 18 * per_layer, rtol=1e-6, atol=0)


@pytest.mark.parametrize("halves", [True, False])
def test_independence_is_its_sum(halves):
    model = model_of(halves=halves)
    expected = 0.0
    for layer, rank in layers(model):
        pairs = [(r, t) for r in range(rank) for t in range(r + 1, rank)]
        squares = sum((layer.factors[r] * layer.factors[t]).sum().item() ** 2 for r, t in pairs)
        expected += squares**0.5
    assert expected > 0
    torch.testing.assert_close(independence(model).item(), expected)


def test_penalties_pull_towards_what_they_name():
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = orthogonality(model).item(), independence(model).item()
    for _ in range(60):
        optimizer.zero_grad()
        (orthogonality(model) + independence(model)).backward()
        optimizer.step()
    assert orthogonality(model).item() < 0.3 * before[0]
    assert independence(model).item() < 0.3 * before[1]


def test_a_dense_model_has_no_axioms():
    model = model_of(kind="dense")
    assert orthogonality(model) == 0 and independence(model) == 0
