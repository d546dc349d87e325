"""The model end to end: shapes, causality, precision, errors."""

import pytest
import torch

from h2q.axioms import independence, orthogonality
from h2q.config import ModelConfig
from h2q.errors import UserError
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
    {"positions": "relative"},
    {"positions": "none"},
    {"mixer": "state"},
    {"mixer": "state", "rotation": "quaternion"},
    {"mixer": "both"},
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


@pytest.mark.parametrize("changes", [*VARIANTS, {"heads": 8}, {"heads": 8, "memory": "reversible"}])
def test_a_lane_alone_is_as_among_others(changes):
    model = lively(small(**changes))
    x = torch.randint(256, (2, 16))
    alone = model(x[:1])
    torch.testing.assert_close(alone, model(x)[:1], rtol=1e-4, atol=1e-5)
    alone.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


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


@pytest.mark.parametrize("changes", [*VARIANTS, {"memory": "reversible"}, {"phase_rotation": False}])
def test_energy_is_the_mean_norm_of_the_stream_after_each_block(changes):
    model = lively(small(**changes)).eval()
    x = torch.randint(256, (3, 10))
    streams = []
    block_inputs = [model.blocks[1].norm1, model.norm if model.config.final_norm else model.head]
    for module in block_inputs:
        module.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
    logits, energy = model(x, energy=True)
    assert energy.shape == (2,) and energy.dtype == torch.float32 and not energy.requires_grad
    assert torch.equal(model(x), logits)
    if model.config.final_norm:
        torch.testing.assert_close(energy[-1], streams[1].norm(dim=-1).mean())
    if not model.config.halves:
        torch.testing.assert_close(energy[0], streams[0].norm(dim=-1).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("changes", [{}, {"memory": "reversible"}, {"mixer": "both"}])
def test_under_autocast_stream_logits_and_gradients_stay_in_float32(dtype, changes):
    model = lively(small(**changes))
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    x = torch.randint(256, (2, 16))
    with torch.autocast("cpu", dtype=dtype):
        logits = model(x)
    logits.sum().backward()
    assert logits.dtype == torch.float32 and set(seen) == {torch.float32}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    exact = model(x)
    assert not torch.equal(logits, exact)
    assert (logits - exact).norm() / exact.norm() < 0.1


def test_unit_initialisation_has_unit_gain_and_writes_nothing():
    torch.manual_seed(0)
    config = ModelConfig(dim=256, depth=2, heads=4, factor=8, fixed_rank=8, dropout=0.0)
    model = ByteModel(config)
    named = dict(model.named_parameters())
    matrices = model.bank.matrices(8)  # type: ignore[union-attr]
    x = torch.randn(500, 128)
    gain = model.blocks[0].attention.q_proj(x, matrices).square().mean()  # type: ignore[operator]
    assert 0.9 < gain < 1.1
    for name in ("attention.o_proj", "ffn.fc2"):
        assert not named[f"blocks.1.{name}.factors"].any()
    _, energy = model.eval()(torch.randint(256, (2, 128)), energy=True)
    torch.testing.assert_close(energy[0], energy[1])


def test_the_published_initialisation_multiplies_variances():
    """By 4 Σ (r+1)⁻² = 6.1 at rank 8, so that the stream grows with depth."""
    torch.manual_seed(0)
    sizes = {"dim": 256, "depth": 8, "heads": 4, "factor": 8, "final_norm": False, "tied_embeddings": False}
    model = ByteModel(ModelConfig(**sizes, init="published")).eval()
    matrices = model.bank.matrices(8)  # type: ignore[union-attr]
    gain = model.blocks[0].attention.q_proj(torch.randn(2000, 128), matrices).square().mean()  # type: ignore[operator]
    assert 5.6 < gain < 6.6
    _, energy = model(torch.randint(256, (2, 128)), energy=True)
    assert energy[-1] > 2 * energy[0]


def test_dropout_is_on_in_training_only():
    model = lively(small(dropout=0.5))
    x = torch.randint(256, (2, 16))
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_tied_head_is_the_embedding():
    tied, free = ByteModel(small()), ByteModel(small(tied_embeddings=False))
    assert tied.head.weight is tied.token_emb.weight
    assert len(list(free.parameters())) == len(list(tied.parameters())) + 1


def test_the_published_sizes_have_the_published_number_of_parameters():
    config = ModelConfig(init="published", final_norm=False, tied_embeddings=False)
    assert sum(parameter.numel() for parameter in ByteModel(config).parameters()) == 1_127_968


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory": "reversible"},
        {"mixer": "both"},
        {"mixer": "state", "ngrams": "2:50x4,4:60x8", "feed_forward": False},
        {"factors": "per-block"},
        *({"kind": kind} for kind in ("phm", "btt", "monarch", "low_rank", "dense")),
    ],
    ids=str,
)
def test_gradients_through_distributed_data_parallel(changes, tmp_path):
    model = lively(small(**changes))
    x = torch.randint(256, (2, 16))
    model(x).square().mean().backward()
    alone = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.nn.parallel.DistributedDataParallel(model)(x).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    together = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(together) == len(alone) == len(list(model.parameters()))
    for a, b in zip(alone, together):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("expansion", [2, 4])
def test_dense_feed_forward_layers_may_widen_and_start_with_unit_gain(expansion: int) -> None:
    torch.manual_seed(0)
    model = ByteModel(ModelConfig(kind="dense", dim=64, depth=2, heads=2, seq_len=16, ffn_expansion=expansion))
    named = dict(model.named_parameters())
    widening, narrowing = named["blocks.0.ffn.fc1.weight"], named["blocks.0.ffn.fc2.weight"]
    assert widening.shape == (expansion * 32, 32) and narrowing.shape == (32, expansion * 32)
    assert widening.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert model(torch.randint(256, (2, 16))).shape == (2, 16, 256)


@pytest.mark.parametrize("changes", [{}, {"halves": False}, {"halves": False, "dim": 62, "kind": "dense"}])
def test_positions_start_as_sinusoids_that_tell_near_from_far(changes):
    torch.manual_seed(0)
    config = small(**{"seq_len": 128, "phase_rotation": False, **changes})
    model = ByteModel(config)
    code = model.pos_emb.detach()[0]
    assert code.square().mean().sqrt().item() == pytest.approx(model.token_emb.weight.std().item(), rel=0.1)
    for part in code.split(config.width, dim=1):
        assert torch.equal(part, code[:, : config.width]), "each half, read alone, knows where it is"
    alike = code @ code.T / code[0].square().sum()
    near, far = alike.diagonal(1), alike.diagonal(100)
    assert near.min() > far.max() and alike.fill_diagonal_(0).max() < 0.99
    drawn = ByteModel(small(**{"seq_len": 128, "phase_rotation": False, **changes}, positions="random")).pos_emb
    assert drawn.std().item() == pytest.approx(0.02, rel=0.1)
