"""What the benchmark compares is the same function: the published formulation against this one, with gradients."""

import pytest
import torch

from h2q.axioms import orthogonality
from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.benchmark.memory import Options as MemoryOptions
from pipeline.benchmark.memory import run as run_memory
from pipeline.benchmark.model import Options, PublishedFormulation, orthogonality_ref, run
from pipeline.benchmark.timing import interleave, machine, ratio

TINY = ModelConfig(dim=64, depth=2, heads=2, factor=8, fixed_rank=2, seq_len=16, dropout=0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"halves": False, "phase_rotation": False},
        {"phase_rotation": False, "final_norm": False, "tied_embeddings": False},
        {"memory": "reversible"},
    ],
)
@pytest.mark.parametrize("checkpointed", [True, False])
def test_the_published_formulation_is_the_same_function(changes, checkpointed):
    torch.manual_seed(0)
    model = ByteModel(ModelConfig(**{**TINY.to_dict(), "init": "published", **changes})).double()
    twin = PublishedFormulation(model, checkpointed=checkpointed)
    x = torch.randint(256, (2, 16))
    gradients = []
    for one in (model, twin):
        model.zero_grad()
        logits = one(x)
        logits.square().mean().backward()
        gradients.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for gradient, published in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, published, rtol=1e-8, atol=1e-10)
    if model.config.halves:
        torch.testing.assert_close(orthogonality(model), orthogonality_ref(model).double(), rtol=1e-6, atol=1e-6)


def test_the_model_benchmark_times_every_case():
    result = run(Options(model=TINY, lanes=2, rounds=2, precisions=("fp32",), device="cpu"))
    assert [row["case"] for row in result["rows"]] == [
        f"{case} fp32"
        for case in (
            "h2q",
            "published formulation",
            "published, checkpointed",
            "dense",
            "h2q, storage of all ranks",
            "bare products",
            "bare products, attention's too",
        )
    ]
    assert all(row["seconds"] > 0 for row in result["rows"])


def test_memory_of_the_reversible_stack_is_flat_in_depth():
    config = ModelConfig(**{**TINY.to_dict(), "dim": 64, "seq_len": 64})
    result = run_memory(MemoryOptions(model=config, lanes=8, depths=(3, 15), rounds=1, device="cpu"))
    shallow, deep = result["rows"]
    assert deep["store MiB"] > 3 * shallow["store MiB"]
    assert deep["reversible MiB"] < 1.15 * shallow["reversible MiB"]
    assert deep["drift fp32"] < 1e-5


def test_ratios_are_taken_turn_by_turn():
    assert ratio({"slow": [4.0, 40.0, 2.0], "fast": [2.0, 20.0, 2.0]}, "slow", "fast") == 2.0


def test_interleaving_runs_every_case_in_every_round():
    calls: list[str] = []
    seconds = interleave({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "aabb" + "bbaa" + "aabb"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert machine()["torch"] == torch.__version__
