"""Every family of two cores is its formula, counts itself exactly, and does all that a model does."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from h2q.config import ModelConfig
from h2q.decode.cache import Recomputing, decoder
from h2q.decode.session import Session
from h2q.errors import UserError
from h2q.growth import grow
from h2q.layers import FAMILIES, PER_BLOCK, btt, low_rank, monarch, phm
from h2q.layers.cores import CoreLinear, generate, multiply
from h2q.layers.hamilton import HamiltonLinear, generate_weights, hamilton_linear_ref
from h2q.layers.source import by_factors, new_layer, project, weight_of
from h2q.layers.structure import Structure, volume
from h2q.model import ByteModel
from h2q.quaternion import hamilton_matrix

OWN = {"phm": phm.weight_ref, "btt": btt.weight_ref, "monarch": monarch.weight_ref, "low_rank": low_rank.weight_ref}
ALL: list[dict[str, Any]] = [{"kind": kind} for kind in FAMILIES] + [{"factors": "per-block"}]
SMALL: dict[str, Any] = {
    "dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 8, "dropout": 0.0,
}  # fmt: skip

shapes = st.tuples(st.sampled_from(list(OWN)), *[st.integers(1, 3)] * 4)


def of(kind: str, blocks: int, into: int, out: int, rank: int) -> CoreLinear:
    """A layer of a width of that many blocks, so many widths in and out, with everything drawn."""
    torch.manual_seed(0)
    structure, factor = FAMILIES[kind].structure, 2 * blocks
    assert structure is not None
    width = blocks * factor
    sizes = structure.sizes(width, into * width, out * width, factor, rank)
    layer = CoreLinear(structure, sizes, rank).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def same(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    """In value, and in the gradients of a random direction."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(ours)
    for mine, other in zip(*(torch.autograd.grad(y, inputs, direction, retain_graph=True) for y in (ours, theirs))):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@settings(max_examples=12, deadline=None)
@given(shapes)
def test_the_weight_is_that_of_the_formula(shape: Any) -> None:
    layer = of(*shape)
    naive = OWN[shape[0]](layer.mixing, layer.factors)
    assert layer.weight.shape == naive.shape == (len(layer.bias), volume(layer.structure.reads, sizes_of(layer)))
    same(layer.weight, naive, [layer.factors, layer.mixing])


@settings(max_examples=12, deadline=None)
@given(shapes, st.integers(1, 3))
def test_the_cores_multiply_as_the_weight_does(shape: Any, count: int) -> None:
    layers = [of(*shape) for _ in range(count)]
    inputs = [parameter for layer in layers for parameter in (layer.factors, layer.mixing)]
    x = torch.randn(2, 3, layers[0].weight.shape[1], dtype=torch.float64, requires_grad=True)
    weights = weight_of(layers, None, torch.float64)
    same(CoreLinear.multiply(layers, x, None), x @ weights.t(), [x, *inputs])


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_a_factor_for_each_block_is_the_formula_by_weight_and_by_factors(
    s: int, factor: int, rank: int, count: int
) -> None:
    torch.manual_seed(0)
    layers = [HamiltonLinear(rank + 1, 4 * s, factor, per_block=True).double() for _ in range(count)]
    components = torch.randn(rank, 4, s, s, dtype=torch.float64)
    for layer in layers:
        torch.nn.init.normal_(layer.factors)
    x = torch.randn(5, 4 * s * factor, dtype=torch.float64, requires_grad=True)
    naive = [hamilton_linear_ref(x, components, layer.factors[:rank], layer.bias) for layer in layers]
    matrices = hamilton_matrix(components).requires_grad_()
    inputs = [x, *(layer.factors for layer in layers)]
    same(x @ generate_weights(matrices, layers).flatten(0, 1).t(), torch.cat(naive, -1), inputs)
    same(HamiltonLinear.multiply(layers, x, matrices), torch.cat(naive, -1), inputs)


def test_equal_factors_in_all_blocks_are_one_shared_factor() -> None:
    torch.manual_seed(0)
    shared, own = HamiltonLinear(2, 4, 3).double(), HamiltonLinear(2, 4, 3, per_block=True).double()
    torch.nn.init.normal_(shared.factors)
    own.factors.data.copy_(shared.factors.data[:, None].expand_as(own.factors))
    matrices = torch.randn(2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(generate_weights(matrices, [own]), generate_weights(matrices, [shared]))
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(own.multiply([own], x, matrices), shared.multiply([shared], x, matrices))


def test_a_factor_for_each_block_is_a_block_tensor_train() -> None:
    """Of which every channel is mixed by the bank's matrix."""
    layer = of("btt", 2, 1, 1, 3)
    mixing = torch.randn(3, 2, 2, dtype=torch.float64)
    ours = generate(PER_BLOCK, mixing, [layer.factors])[0]
    layer.mixing.data.copy_(mixing[:, :, None].expand_as(layer.mixing))
    torch.testing.assert_close(ours, layer.weight)


def sizes_of(layer: CoreLinear) -> dict[str, int]:
    return dict(zip(layer.structure.mixing, layer.mixing.shape)) | dict(
        zip(layer.structure.factors, layer.factors.shape)
    )


@pytest.mark.parametrize("kind", OWN)
def test_counts_are_those_of_the_tensors_and_of_torch(kind: str) -> None:
    layer = of(kind, 3, 2, 3, 2)
    structure, sizes = layer.structure, sizes_of(layer)
    assert structure.parameters(sizes) == layer.factors.numel() + layer.mixing.numel()
    x = torch.randn(7, layer.weight.shape[1], dtype=torch.float64)
    assert flops(lambda: multiply(structure, x, layer.mixing[None], [layer.factors])) == 7 * structure.multiply_adds(
        sizes
    )
    assert flops(lambda: layer.weight) == structure.generation(sizes)


def flops(work: Any) -> int:
    """Multiply-adds."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("expansion", [1, 4])
def test_layers_start_with_unit_gain_and_with_a_gradient_where_they_start_at_zero(kind: str, expansion: int) -> None:
    torch.manual_seed(0)
    layer = new_layer(config_of(kind=kind, dim=512, factor=16, fixed_rank=4), outputs=expansion)
    assert isinstance(layer, CoreLinear)
    layer.initialise(1.0)
    x = torch.randn(2000, layer.weight.shape[1])
    assert (x @ layer.weight.t()).square().mean().item() == pytest.approx(1, rel=0.2)
    layer.initialise(0.0)
    assert not layer.weight.any()
    (x @ layer.weight.t() - 1).square().mean().backward()
    assert layer.mixing.grad is not None and layer.mixing.grad.any()


def test_rates_fall_with_what_a_core_sums_over_and_are_shared_among_cores() -> None:
    layer: Any = new_layer(config_of(kind="btt", fixed_rank=3), inputs=2)  # 8 blocks of 8 channels in
    assert layer.rates == {"factors": 64 / 8 / 2, "mixing": 64 / (8 * 3) / 2}
    layer = new_layer(config_of(kind="low_rank", fixed_rank=4))
    assert layer.rates == {"factors": 1 / 2, "mixing": 32 / 4 / 2}


def config_of(**changes: Any) -> ModelConfig:
    if changes.get("kind") == "low_rank":
        changes = {"factor": 5} | changes  # It has no blocks: any factor will do.
    return ModelConfig(**{**SMALL, **changes})


def lively(**changes: Any) -> ByteModel:
    """A model in float64 in which no parameter is zero."""
    torch.manual_seed(0)
    model = ByteModel(config_of(**changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def first_fc(model: ByteModel) -> Any:
    """The first feed-forward layer of the first block."""
    block: Any = model.blocks[0]
    return block.ffn.fc1


@pytest.fixture(params=[False, True], ids=["weights", "factors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether layers multiply by their factors, whatever is faster at this size."""
    monkeypatch.setattr(Structure, "by_factors", lambda self, sizes: request.param)
    return request.param


@pytest.mark.parametrize("mixer", ["attention", "both"])
@pytest.mark.parametrize("changes", ALL)
def test_the_reversible_backward_pass_gives_the_same_gradients(changes: dict, mixer: str, way: bool) -> None:
    store = lively(mixer=mixer, **changes)
    reversible = ByteModel(replace(store.config, memory="reversible")).double()
    reversible.load_state_dict(store.state_dict())
    x, gradients = torch.randint(256, (2, 8)), []
    for model in (store, reversible):
        model(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes", ALL)
def test_a_model_is_the_same_by_weights_and_by_factors(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """With phase rotations, whose channels go in another order by weights."""
    logits = []
    for way in (False, True):
        monkeypatch.setattr(Structure, "by_factors", lambda self, sizes, way=way: way)
        model = lively(mixer="both", **changes)
        assert by_factors([first_fc(model)]) == (way and changes.get("kind") != "dense")
        logits.append(model(torch.randint(256, (2, 8), generator=torch.Generator().manual_seed(1))))
    torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("changes", ALL)
def test_bytes_are_decoded_as_the_full_forward_pass_has_them(changes: dict, way: bool) -> None:
    data = bytes(range(40, 56))
    model = lively(mixer="state", **changes).eval()
    session = Session(model)
    for byte, logits in zip(data, model(torch.tensor([list(data)]))[0]):
        torch.testing.assert_close(session.read(bytes((byte,))), logits, rtol=1e-10, atol=1e-10)
    attending = lively(**changes).eval()
    for products in ("auto", "factors"):
        decode = decoder(attending, products)
        for length in (1, 2, 8):
            expected = Recomputing(attending)(data[:length])
            torch.testing.assert_close(decode(data[:length]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("changes", [{"kind": "phm"}, {"kind": "btt"}, {"kind": "low_rank"}, {"factors": "per-block"}])
def test_a_family_with_ranks_grows_without_a_change_and_then_learns(changes: dict, way: bool) -> None:
    model = lively(max_rank=3, fixed_rank=1, dim=128, **changes)
    with torch.no_grad():  # As growth keeps them: zero beyond the active rank.
        for name, parameter in model.named_parameters():
            if name.endswith(("factors", "mixing", "components")):
                parameter[1:] = 0
    x = torch.randint(256, (2, 8))
    before = model(x)
    before.square().mean().backward()
    core = first_fc(model).factors.grad
    assert core is not None and not core[1:].any()
    assert grow(model, "ffn") == 2
    assert torch.equal(model(x), before) or (way and model.bank is not None)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    model.zero_grad()
    model(x).square().mean().backward()
    core = "factors" if "factors" in changes else "mixing"  # The one that was zero.
    named = dict(model.named_parameters())
    grown, kept = (named[f"blocks.0.{name}.{core}"] for name in ("ffn.fc1", "attention.o_proj"))
    assert grown.grad is not None and grown.grad[1].any() and not grown.grad[2].any()
    assert kept.grad is not None and not kept.grad[1:].any()


@pytest.mark.parametrize("changes", [{"kind": "phm"}, {"factors": "per-block"}])
def test_mixers_alone_grow(changes: dict) -> None:
    model = lively(max_rank=3, feed_forward=False, **changes)
    assert grow(model, "all") == 3


@pytest.mark.parametrize("kind", ["dense", "monarch"])
def test_a_family_without_ranks_does_not_grow(kind: str) -> None:
    with pytest.raises(UserError, match=f"a {kind} model has no rank to grow: .*hamilton, phm, btt, low_rank"):
        grow(lively(kind=kind))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "phm", "dim": 72}, "must be a multiple of model.factor = 8 .* try --model.dim 64"),
        ({"kind": "btt", "dim": 72}, "must be a multiple of model.factor = 8"),
        ({"kind": "monarch", "factor": 4}, "model.factor must be a multiple of the 8 blocks"),
        ({"kind": "monarch", "factor": 16, "dim": 96}, "model.factor must be a multiple of the 3 blocks"),
        ({"kind": "phm", "fixed_rank": 17}, "fixed_rank must be at most 16"),
        ({"kind": "btt", "max_rank": 5}, "max_rank must be at most 4"),
        ({"kind": "low_rank", "fixed_rank": 33}, "fixed_rank must be at most 32"),
        ({"kind": "dense", "factors": "per-block"}, "--model.kind hamilton, got dense"),
        ({"factors": "per-block", "ffn_expansion": 2}, "square"),
        (
            {"kind": "diagonal"},
            "model.kind must be one of hamilton, dense, phm, btt, monarch, low_rank, got 'diagonal'",
        ),
    ],
)
def test_a_shape_that_a_family_has_not_is_one_line(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        ModelConfig(**{**SMALL, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["dense", *OWN])
def test_feed_forward_layers_may_widen(kind: str, way: bool) -> None:
    model = lively(kind=kind, ffn_expansion=4)
    assert first_fc(model).bias.shape == (128,)
    assert model(torch.randint(256, (2, 8))).shape == (2, 8, 256)


@pytest.mark.parametrize("kind", [*OWN, "hamilton"])
def test_wide_layers_multiply_by_their_factors_and_narrow_ones_do_not(kind: str) -> None:
    """As measured: at a width of 64 nothing is saved, at 1,024 most is."""
    rank = {"low_rank": 1 / 4}.get(kind, 0)
    chosen = {
        dim: by_factors(
            [
                new_layer(
                    ModelConfig(
                        kind=kind, dim=dim, halves=False, factor=dim // 4, fixed_rank=max(1, int(rank * dim)), heads=4
                    )
                )
            ]
        )
        for dim in (64, 1024)
    }
    assert chosen == {64: kind == "low_rank", 1024: True}


def test_projections_of_low_precision_come_out_in_it(way: bool) -> None:
    layer: Any = new_layer(config_of(kind="btt"))
    layer.initialise(1.0)
    x = torch.randn(4, 32, dtype=torch.float16)
    y = project(x, [layer, layer], None)
    assert y.dtype == x.dtype and bool(y.isfinite().all())
    torch.testing.assert_close(y[:, :32].float(), x.float() @ layer.weight.t(), rtol=2e-2, atol=2e-2)
