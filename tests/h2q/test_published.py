"""Imported checkpoints compute what the published code computes, written out here naively from its formulas."""

import math

import pytest
import torch
from torch import Tensor

from h2q.errors import UserError
from h2q.published import from_state_dict

HEADS, DEPTH, F, T = 8, 2, 4, 24


def published_layer(x: Tensor, bank: Tensor, factors: list[Tensor], bias: Tensor) -> Tensor:
    """Σ_r H(Q_r) ⊗ B_r as an explicit matrix, term by term; ranks that the layer does not have are not used."""
    weight = torch.zeros(x.shape[-1], x.shape[-1])
    for (a, b, c, d), factor in zip(bank, factors):
        h = torch.cat([torch.cat(row, 1) for row in ((a, -b, -c, -d), (b, a, -d, c), (c, d, a, -b), (d, -c, b, a))], 0)
        weight += torch.kron(h, factor)
    return x @ weight.t() + bias


def published_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def published_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, T, d): causal along the third axis."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1) @ v


def published_phase(y: Tensor) -> Tensor:
    out = torch.empty_like(y)
    for i in range(0, y.shape[-1], 4):
        q = y[..., i : i + 4]
        out[..., i : i + 4] = q / (q.square().sum(-1, keepdim=True) + 1e-6).sqrt() * q[..., :1]
    return out


def run_published(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """Either family, from the published names alone."""
    h2q = "structure_bank.factors_A" in p

    def factors(layer: str) -> list[Tensor]:
        if h2q:
            return list(p[f"{layer}.factors_B"])
        return [p[f"{layer}.factors_B_gpu.{r}"] for r in range(99) if f"{layer}.factors_B_gpu.{r}" in p]

    if h2q:
        bank = p["structure_bank.factors_A"]
    else:
        names = [f"structure_bank.factors_A_components.{r}" for r in range(99)]
        bank = torch.stack([p[name] for name in names if name in p])

    def layer(name: str, z: Tensor) -> Tensor:
        return published_layer(z, bank, factors(name), p[f"{name}.bias"])

    def norm(name: str, z: Tensor) -> Tensor:
        return published_norm(z, p[f"{name}.weight"], p[f"{name}.bias"])

    def attention(name: str, z: Tensor) -> Tensor:
        batch, length, width = z.shape
        q, k, v = (layer(f"{name}.{part}_proj", z) for part in "qkv")
        if h2q:
            q, k, v = (part.reshape(batch, HEADS, length, width // HEADS) for part in (q, k, v))
            y = published_phase(published_attention(q, k, v).reshape(batch, length, width))
        else:
            q, k, v = (part.reshape(batch, length, HEADS, -1).transpose(1, 2) for part in (q, k, v))
            y = published_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return layer(f"{name}.o_proj", y)

    def ffn(prefix: str, z: Tensor) -> Tensor:
        one, two = ("ffn_1", "ffn_2") if h2q else ("ffn.fc1", "ffn.fc2")
        hidden = layer(f"{prefix}.{one}", z)
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return layer(f"{prefix}.{two}", hidden)

    stream = p["token_emb.weight"][x] + p["pos_emb"][:, : x.shape[1]]
    for n in range(DEPTH):
        at = f"layers.{n}"
        if h2q:
            first, second = stream.chunk(2, -1)
            first = first + attention(f"{at}.attn", norm(f"{at}.norm1", second))
            second = second + ffn(at, norm(f"{at}.norm2", first))
            stream = torch.cat((first, second), -1)
        else:
            stream = stream + attention(f"{at}.attn", norm(f"{at}.norm1", stream))
            stream = stream + ffn(at, norm(f"{at}.norm2", stream))
    return stream @ p["head.weight"].t() + p["head.bias"]


def make_checkpoint(family: str, *, ranks: int = 2, grown: int = 0, vocab: int = 256) -> dict[str, Tensor]:
    """Names as in MODEL: the bank at the top and again below every Hamilton layer."""
    torch.manual_seed(3)
    width, h2q = 64, family == "h2q"
    dim, size = (2 * width if h2q else width), width // F // 4
    components = torch.randn(ranks + grown, 4, size, size) * size**-0.5
    bank = {"structure_bank.factors_A": components}
    if not h2q:
        bank = {f"structure_bank.factors_A_components.{r}": c for r, c in enumerate(components)}
    p = dict(bank)
    p["token_emb.weight"] = torch.randn(vocab, dim)
    p["pos_emb"] = torch.randn(1, T, dim) * 0.02
    p["head.weight"], p["head.bias"] = torch.randn(vocab, dim) * dim**-0.5, torch.randn(vocab) * 0.1
    ffn = ("ffn_1", "ffn_2") if h2q else ("ffn.fc1", "ffn.fc2")
    for n in range(DEPTH):
        for name in ("norm1", "norm2"):
            p[f"layers.{n}.{name}.weight"] = 1 + 0.1 * torch.randn(width)
            p[f"layers.{n}.{name}.bias"] = 0.1 * torch.randn(width)
        for name in (*(f"attn.{part}_proj" for part in "qkvo"), *ffn):
            count = ranks + (grown if "ffn" in name else 0)
            factors = torch.randn(count, F, F) * (4 * count * F) ** -0.5
            at = f"layers.{n}.{name}"
            p |= {f"{at}.{key}": tensor for key, tensor in bank.items()}
            p |= {f"{at}.factors_B": factors} if h2q else {f"{at}.factors_B_gpu.{r}": b for r, b in enumerate(factors)}
            p[f"{at}.bias"] = 0.1 * torch.randn(width)
    return p


@pytest.mark.parametrize(("family", "options"), [("h2q", {}), ("qrlm", {}), ("qrlm", {"grown": 2, "vocab": 91})])
@pytest.mark.parametrize("length", [1, 2, 7, 16, T])
def test_logits_match_the_published_formulas(family, options, length):
    checkpoint = make_checkpoint(family, **options)
    model = from_state_dict(checkpoint, {"dropout_rate": 0.1})
    x = torch.randint(len(checkpoint["token_emb.weight"]), (3, length))
    with torch.no_grad():
        logits = model(x)
    assert logits.shape == (3, length, len(checkpoint["token_emb.weight"]))
    torch.testing.assert_close(logits, run_published(checkpoint, x), rtol=1e-4, atol=1e-4)


def test_grown_ranks_and_sizes_are_read_off_the_tensors():
    model = from_state_dict(make_checkpoint("qrlm", grown=2, vocab=91))
    assert (model.mixer_rank, model.ffn_rank, model.rank) == (2, 4, 4)
    assert (model.config.vocab, model.config.seq_len, model.config.depth) == (91, T, DEPTH)


def test_import_leaves_the_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    checkpoint = make_checkpoint("h2q")
    torch.manual_seed(0)
    from_state_dict(checkpoint)
    assert torch.equal(torch.rand(1), expected)


def test_the_published_layout_depends_on_the_window():
    """The published defect, kept for imports only: the same prefix, another window, other logits."""
    model = from_state_dict(make_checkpoint("h2q"))
    x = torch.randint(256, (1, T))
    with torch.no_grad():
        assert not torch.allclose(model(x)[:, :8], model(x[:, :8]), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("layers.1.attn.k_proj.bias"), "lacks 1"),
        (lambda p: p.pop("structure_bank.factors_A"), "not a checkpoint"),
        (lambda p: p.update({"surprise": torch.zeros(1)}), "surprise"),
        (lambda p: p.update({"head.bias": torch.zeros(3)}), "head.bias must have shape"),
        (lambda p: p.update({"layers.0.ffn_1.factors_B": torch.zeros(1, F, F)}), "ranks"),
        (lambda p: p.update({"pos_emb": 3}), "must be a tensor"),
        (lambda p: p.update({"structure_bank.factors_A": torch.tensor(3.0)}), "must be a tensor"),
        (lambda p: p.update({"layers.0.ffn_2.factors_B": torch.tensor(3.0)}), "must be a tensor"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    checkpoint = make_checkpoint("h2q")
    change(checkpoint)
    with pytest.raises(UserError, match=message):
        from_state_dict(checkpoint)


def test_a_contradicting_config_is_refused():
    with pytest.raises(UserError, match="depth is 7 and 2"):
        from_state_dict(make_checkpoint("h2q"), {"depth": 7})


@pytest.mark.parametrize("name", ["dropout_rate", "dim"])
@pytest.mark.parametrize("value", ["a text", None, torch.zeros(2)], ids=repr)
def test_a_config_of_another_type_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name} must be a number, got {type(value).__name__}"):
        from_state_dict(make_checkpoint("h2q"), {name: value})
