"""The optimizer: every parameter in the group that it belongs to."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from h2q.alphabet import ALPHABET
from h2q.config import BoundProjector, ModelConfig
from h2q.model import ByteModel
from h2q.projector import Projector
from pipeline.config import TrainingConfig
from pipeline.runs.checkpoint import to_host
from pipeline.training.optimizer import (
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
)

SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "fixed_rank": 2, "seq_len": 8}


@pytest.mark.parametrize("kind", ["hamilton", "dense", "monarch"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_in_one_group_and_only_weights_decay(kind: str, tied: bool) -> None:
    senses = {"mixer": "state", "vocab": ALPHABET, "strides": "auto"} if tied else {}
    model = ByteModel(ModelConfig(kind=kind, tied_embeddings=tied, ngrams="2:30x3", **SMALL, **senses))
    optimizer = build_optimizer(model, TrainingConfig(weight_decay=0.1, table_decay=0.3))
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in model.parameters()}
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            # Of neighbours: how far off predictions are, and their taps, which do not start at zero.
            spared = any(part in name for part in ("norm", "bias", "emb", "strides.weights", "strides.shapes"))
            assert group["weight_decay"] == (0 if spared else 0.3 if "tables" in name else 0.1), name


@pytest.mark.parametrize("within", [False, True], ids=["alone", "in-a-projector"])
def test_bank_factors_embeddings_and_tables_have_their_own_learning_rates(within: bool) -> None:
    config = ModelConfig(ngrams="2:30x3", **SMALL)
    asked = BoundProjector(core="", sha256="", core_model=ModelConfig(mixer="state", **SMALL), last=8, rank=4)
    model = Projector(config, asked) if within else ByteModel(config)
    rates_of = {"bank": 0.5, "factors": 3.0, "emb": 2.0, "tables": 6.0}
    optimizer = build_optimizer(model, TrainingConfig(bank_lr=0.5, factor_lr=3.0, embedding_lr=2.0, table_lr=6.0))
    set_learning_rate(optimizer, 1e-2)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        factor = next((rate for part, rate in rates_of.items() if part in name), 1.0)
        assert rates[id(parameter)] == pytest.approx(1e-2 * factor), name


def test_each_core_of_a_family_has_its_rate_and_no_weight_two() -> None:
    model = ByteModel(ModelConfig(kind="btt", **SMALL))
    optimizer = build_optimizer(model, TrainingConfig(factor_lr=3.0))
    set_learning_rate(optimizer, 1e-2)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        # Of 16 inputs, 4 blocks of 4: the factors sum over 4 of them, the mixing over 4 blocks × 2 ranks; two cores.
        factor = 16 / 4 / 2 * 3 if name.endswith("factors") else 16 / 8 / 2 if name.endswith("mixing") else 1.0
        assert rates[id(parameter)] == pytest.approx(1e-2 * factor), name
    assert len(rates) == len(list(model.parameters()))


def test_inactive_ranks_keep_still_under_decay() -> None:
    model = ByteModel(ModelConfig(**{**SMALL, "fixed_rank": 1, "max_rank": 3}))
    optimizer = build_optimizer(model, TrainingConfig(weight_decay=0.5, learning_rate=0.1))
    for _ in range(3):
        model(torch.randint(256, (2, 8))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        if name.endswith(("components", "factors")):
            assert not parameter[1:].any(), name


@pytest.mark.ray  # a program of its own
def test_training_does_not_load_the_compiler_of_torch() -> None:
    """It takes two seconds of every start."""
    code = (
        "import sys, torch; from pipeline.config import TrainingConfig;"
        "from pipeline.training.optimizer import build_optimizer;"
        "layer = torch.nn.Linear(2, 2); optimizer = build_optimizer(layer, TrainingConfig());"
        "layer(torch.ones(1, 2)).sum().backward(); before = layer.weight.clone(); optimizer.step();"
        "optimizer.zero_grad(); optimizer.load_state_dict(optimizer.state_dict());"
        "from h2q.shapes import shapes_only; from pipeline.config import RunConfig;"
        "from pipeline.runs.model import new_model\n"
        "with shapes_only(): new_model(RunConfig())\n"  # as a checkpoint is looked at
        "assert not torch.equal(layer.weight, before); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_optimizer_goes_on_as_if_never_stopped() -> None:
    def steps(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer, dict[torch.nn.Parameter, str]]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        names = {parameter: name for name, parameter in model.named_parameters()}
        return model, torch.optim.AdamW(model.parameters(), fused=True), names

    model, optimizer, names = make()
    steps(model, optimizer, range(3))
    weights, moments = to_host(model.state_dict()), to_host(optimizer_tensors(optimizer, names))
    steps(model, optimizer, range(3, 6))

    other, other_optimizer, other_names = make()
    other.load_state_dict(weights)
    restore_optimizer(other_optimizer, other_names, moments)
    steps(other, other_optimizer, range(3, 6))
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
    assert weights["weight"].ne(model.weight).any(), "a snapshot is a copy"
