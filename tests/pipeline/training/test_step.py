"""One optimizer step: accumulation is arithmetic, and a gradient that is not finite changes nothing."""

from dataclasses import replace

import pytest
import torch

from h2q.config import GrowthConfig, ModelConfig
from h2q.growth import RankGrowth
from h2q.model import ByteModel
from pipeline.config import RunConfig, TrainingConfig
from pipeline.training.optimizer import build_optimizer
from pipeline.training.precision import setup_precision
from pipeline.training.step import optimizer_step
from pipeline.training.train_state import Diverged, TrainState

CONFIG = RunConfig(
    model=ModelConfig(dim=32, depth=2, heads=2, factor=4, fixed_rank=2, seq_len=8, dropout=0.0),
    training=TrainingConfig(lanes=8, axiom_lambda=0.1, independence_lambda=0.1),
)


def make(precision: str = "fp32") -> TrainState:
    torch.manual_seed(0)
    model = ByteModel(CONFIG.model)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")  # type: ignore[attr-defined]
    return TrainState(model, build_optimizer(model, CONFIG.training), scaler, RankGrowth(GrowthConfig(), 0), about={})


def step(
    train_state: TrainState, config: RunConfig = CONFIG, seed: int = 0, detailed: bool = False
) -> dict[str, torch.Tensor]:
    bytes_ = torch.randint(256, (8, 9), generator=torch.Generator().manual_seed(seed))
    autocast = setup_precision(config.precision, torch.device("cpu"))
    x, y = bytes_[:, :-1], bytes_[:, 1:]
    return optimizer_step(train_state, train_state.model, x, y, config, autocast, detailed=detailed)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_micro_batches_add_up_to_the_batch(parts: int) -> None:
    whole, cut = make(), make()
    for seed in range(3):
        one = step(whole, seed=seed, detailed=True)
        other = step(cut, replace(CONFIG, accumulate=parts), seed=seed, detailed=True)
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-5, msg=name)
    for (name, mine), yours in zip(whole.model.named_parameters(), cut.model.parameters(), strict=True):
        if not name.endswith("k_proj.bias"):  # no gradient but rounding
            torch.testing.assert_close(yours, mine, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(precision: str, poison: float) -> None:
    train_state, config = make(precision), replace(CONFIG, precision=precision)
    step(train_state, config)
    before = train_state.snapshot()
    hook = train_state.model.pos_emb.register_hook(lambda gradient: gradient * poison)
    step(train_state, config, seed=1)
    hook.remove()
    after = train_state.snapshot()
    for mine, yours in ((before.model, after.model), (before.optimizer, after.optimizer)):
        assert all(torch.equal(mine[name], yours[name]) for name in mine)
    step(train_state, config, seed=2)
    later = train_state.snapshot()
    assert any(not torch.equal(after.model[name], later.model[name]) for name in after.model), "training goes on"
    train_state.check_divergence(limit=2)
    assert train_state.counters.skipped == 1


def test_too_many_skipped_steps_in_a_row_are_a_divergence() -> None:
    train_state = make()
    hook = train_state.model.pos_emb.register_hook(lambda gradient: gradient * float("nan"))
    for seed in range(3):
        step(train_state, seed=seed)
    train_state.check_divergence(limit=4)
    hook.remove()
    step(train_state)
    hook = train_state.model.pos_emb.register_hook(lambda gradient: gradient * float("nan"))
    for seed in range(3):
        step(train_state, seed=seed)
    train_state.check_divergence(limit=4)  # six of seven, but not four in a row
    step(train_state)
    with pytest.raises(Diverged, match="4 steps in a row"):
        train_state.check_divergence(limit=4)
    assert train_state.counters.skipped == 7


def test_the_objective_is_what_it_says() -> None:
    found = step(make(), detailed=True)
    wanted = found["loss"] + 0.01 * 0.1 * found["axiom"] + 0.01 * 0.1 * found["independence"]
    torch.testing.assert_close(found["objective"], wanted)
    assert found["energy"].shape == (2,)
