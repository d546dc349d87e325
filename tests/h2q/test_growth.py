"""Growth: when the plateau rule grows, that nothing changes at that moment, and that the new rank then learns."""

import json

import pytest
import torch

from h2q.bank import StructureBank
from h2q.config import GrowthConfig, ModelConfig
from h2q.errors import UserError
from h2q.growth import RankGrowth, easing, grow
from h2q.layers.hamilton import HamiltonLinear
from h2q.model import ByteModel

RULE = GrowthConfig(enabled=True, warmup=20, interval=10, window=4, lookback=15, rank_warmup=0)


def decisions(rule: GrowthConfig, losses: list[float], room: int = 9) -> RankGrowth:
    growth = RankGrowth(rule, room)
    for loss in losses:
        growth.observe(loss)
        growth.decide()
    return growth


def grown_model(**changes) -> ByteModel:
    torch.manual_seed(0)
    sizes = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "seq_len": 16, "dropout": 0.0}
    model = ByteModel(ModelConfig(**{**sizes, "fixed_rank": 2, "max_rank": 4, "init": "published", **changes}))
    return model


def test_a_flat_loss_grows_at_every_interval_after_the_warmup():
    assert decisions(RULE, [1.0] * 50).grown_at == [20, 30, 40, 50]


def test_a_falling_loss_does_not_grow():
    assert decisions(RULE, [0.9**step for step in range(100)]).grown_at == []


def test_windows_are_the_last_steps_and_those_that_began_lookback_ago():
    # At step 20 the last 4 losses are steps 16-19, the old window steps 5-8: only these eight decide.
    losses = [9.0] * 5 + [1.0] * 4 + [9.0] * 7 + [0.98] * 4
    assert decisions(RULE, losses).grown_at == []
    assert decisions(RULE, [*losses[:16], *[0.995] * 4]).grown_at == [20]


def test_cooldown_room_and_the_learning_rate():
    cooled = GrowthConfig(**{**RULE.to_dict(), "cooldown": 5})
    assert decisions(cooled, [1.0] * 50).grown_at == [20, 40]
    full = decisions(RULE, [1.0] * 99, room=2)
    assert full.grown_at == [20, 30]
    assert full.lr_factor == pytest.approx(0.64)
    assert decisions(GrowthConfig(**{**RULE.to_dict(), "enabled": False}), [1.0] * 50).grown_at == []


def test_state_is_plain_json_and_continues_exactly():
    losses = [1.0 + 0.01 * (step % 7) for step in range(80)]
    whole = decisions(RULE, losses)
    half = decisions(RULE, losses[:37])
    rest = RankGrowth(RULE, 9)
    rest.load_state_dict(json.loads(json.dumps(half.state_dict())))
    for loss in losses[37:]:
        rest.observe(loss)
        rest.decide()
    assert rest.state_dict() == whole.state_dict()


@pytest.mark.parametrize("where", ["ffn", "all"])
@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("init", ["unit", "published"])
def test_growth_leaves_the_logits_bit_identical(where, halves, init):
    model = grown_model(halves=halves, dim=64, init=init)
    x = torch.randint(256, (2, 16))
    before = model(x)
    assert grow(model, where) == 3
    assert torch.equal(model(x), before)


def test_every_worker_draws_the_same_component():
    one, other = grown_model(), grown_model()
    torch.rand(7)
    grow(one, seed=5)
    grow(other, seed=5)
    assert one.bank is not None and other.bank is not None
    assert torch.equal(one.bank.components, other.bank.components)
    assert one.bank.components[2].abs().sum() > 0


@pytest.mark.parametrize("seed", [1 << 48, 2**63 + 5, 2**64 - 1])
def test_a_model_grows_with_every_seed_that_a_run_may_have(seed: int):
    model = grown_model()
    assert grow(model, seed=seed) == 3
    assert model.bank is not None and model.bank.components[2].abs().sum() > 0


def test_the_grown_rank_trains_and_the_others_keep_their_moments():
    """The published code never gives a grown rank to its optimizer."""
    model = grown_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    x = torch.randint(256, (4, 16))

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).backward()
        optimizer.step()

    for _ in range(3):
        step()
    factors = [parameter for name, parameter in model.named_parameters() if "ffn" in name and "factors" in name]
    attention = [parameter for name, parameter in model.named_parameters() if "_proj.factors" in name]
    moments = [optimizer.state[parameter]["exp_avg"].clone() for parameter in factors]
    assert all((parameter[2:] == 0).all() for parameter in factors)
    grow(model)
    assert all(torch.equal(optimizer.state[p]["exp_avg"], moment) for p, moment in zip(factors, moments))
    step()
    assert all(p.grad is not None and p.grad[2].abs().sum() > 0 for p in factors)
    for _ in range(9):
        step()
    assert all(parameter[2].abs().max() > 1e-3 for parameter in factors)
    assert all((parameter[3:] == 0).all() for parameter in factors)
    assert all((parameter[2:] == 0).all() for parameter in attention)
    assert model.bank is not None and (model.bank.components[3:] == 0).all()


def test_a_new_rank_warms_up_by_itself():
    rule = GrowthConfig(**{**RULE.to_dict(), "rank_warmup": 3})
    growth = decisions(rule, [1.0] * 20)
    assert growth.shares(20) == {0: 0.25}
    model = grown_model()
    grow(model)
    factors = dict(model.named_parameters())["blocks.0.ffn.fc1.factors"]
    before = factors.detach().clone()
    with easing(model, growth, 20):
        factors.data += 1.0
    torch.testing.assert_close(factors[2], before[2] + 0.25)
    torch.testing.assert_close(factors[:2], before[:2] + 1.0)
    assert growth.shares(22) == {0: 0.75} and growth.shares(23) == {}


def test_active_ranks_survive_a_state_dict():
    model, other = grown_model(), grown_model()
    grow(model, "ffn")
    other.load_state_dict(model.state_dict())
    assert (other.rank, other.mixer_rank, other.ffn_rank) == (3, 2, 3)
    x = torch.randint(256, (2, 16))
    assert torch.equal(other(x), model(x))


def test_a_full_storage_and_a_dense_model_are_refused():
    model = grown_model(max_rank=2)
    with pytest.raises(UserError, match="max_rank = 2"):
        grow(model)
    with pytest.raises(UserError, match="dense"):
        grow(grown_model(kind="dense"))


@pytest.mark.ray  # a training of seconds: the tests before and behind it show the same of a layer
def test_a_model_learns_by_growing_what_its_first_rank_could_not_hold():
    """Sixteen bytes and what follows each, to be kept in the feed-forward layers alone: `grow` makes room for them."""
    torch.manual_seed(0)
    model = grown_model(
        dim=32, depth=1, factor=4, fixed_rank=1, max_rank=16, seq_len=1, halves=False, phase_rotation=False, init="unit"
    )
    x, y = torch.randperm(256)[:16, None], torch.randperm(256)[:16]
    with torch.no_grad():
        model.token_emb.weight.normal_(std=0.3)
    trained = [p for name, p in model.named_parameters() if name.startswith("bank.") or ".ffn." in name]
    factors = [p for name, p in model.named_parameters() if ".ffn." in name and name.endswith("factors")]
    optimizer = torch.optim.Adam(trained, lr=0.03)

    def fit(steps: int) -> float:
        loss = torch.tensor(0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x)[:, 0], y)
            loss.backward()
            optimizer.step()
        return loss.item()

    soon, later = fit(250), fit(50)
    assert later > 1.0 and soon - later < 0.1, "the first rank has learnt what it can"
    for _ in range(6):
        moments = [optimizer.state[p]["exp_avg"][: model.ffn_rank].clone() for p in factors]
        rank = grow(model) - 1
        for factor, moment in zip(factors, moments):
            assert torch.equal(optimizer.state[factor]["exp_avg"][:rank], moment), "old ranks keep their moments"
            assert not optimizer.state[factor]["exp_avg"][rank:].any(), "the new rank begins without"
        fit(40)
    assert model.ffn_rank == 7 and fit(1) < later / 4


def test_a_task_that_rank_one_cannot_fit_is_fitted_after_growth():
    """Target: a layer of rank 2. One Kronecker term leaves a residue that the grown one takes away."""
    torch.manual_seed(1)
    wanted_bank, wanted = StructureBank(2, 8), HamiltonLinear(2, 8, 4)
    bank, layer = StructureBank(2, 8), HamiltonLinear(2, 8, 4)
    x = torch.randn(256, 32)
    with torch.no_grad():
        for parameter in (wanted_bank.components, wanted.factors, bank.components[0], layer.factors[0]):
            parameter.normal_(std=0.4)
        target = wanted(x, wanted_bank.matrices(2))
    optimizer = torch.optim.Adam([*bank.parameters(), *layer.parameters()], lr=0.02)

    def fit(rank: int) -> float:
        loss = torch.tensor(0.0)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (layer(x, bank.matrices(rank)) - target).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    with_one = fit(1)
    with torch.no_grad():
        bank.components[1].normal_(std=0.4)
    with_two = fit(2)
    assert with_one > 0.1 * target.square().mean()
    assert with_two < 0.01 * with_one
