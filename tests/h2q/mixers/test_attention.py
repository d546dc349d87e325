"""Attention and phase rotation against quaternion formulas written out."""

import pytest
import torch

from h2q.kernels import attention as short_attention
from h2q.kernels.rotation import rotate_phase
from h2q.mixers import attention
from h2q.mixers.attention import (
    attend,
    attend_published,
    attend_ref,
    planar_columns,
    planar_heads,
    planar_rows,
    rotate_phase_ref,
)


def both(function, other, *inputs: torch.Tensor) -> None:
    """Equal values and equal gradients, in float64."""
    direction = torch.randn_like(function(*inputs))
    mine = torch.autograd.grad(function(*inputs), inputs, direction)
    theirs = torch.autograd.grad(other(*inputs), inputs, direction)
    torch.testing.assert_close(function(*inputs), other(*inputs), rtol=1e-10, atol=1e-10)
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize(("batch", "length", "heads", "size"), [(2, 9, 2, 4), (1, 1, 3, 8), (3, 20, 4, 12)])
def test_attention_equals_the_formula_of_each_head(monkeypatch, short, batch, length, heads, size):
    """Both ways: stored probabilities, a few heads at a time, and torch's flash kernel."""
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "SHORT_CONTEXT", 512 if short else 0)
    monkeypatch.setattr(short_attention, "CACHED_SCORES", 3 * length**2)
    qkv = torch.randn(batch, length, 3 * heads * size, dtype=torch.float64, requires_grad=True)
    both(lambda x: attend(x, heads).transpose(1, 2).flatten(-2), lambda x: attend_ref(x, heads), qkv)
    slopes = torch.rand(heads, dtype=torch.float64, requires_grad=True)
    both(
        lambda x, s: attend(x, heads, s).transpose(1, 2).flatten(-2), lambda x, s: attend_ref(x, heads, s), qkv, slopes
    )


def test_attention_is_causal_and_independent_of_the_window():
    torch.manual_seed(0)
    qkv = torch.randn(2, 16, 3 * 32, dtype=torch.float64)
    changed = qkv.clone()
    changed[:, 10] += 1
    whole = attend(qkv, 2)
    assert torch.equal(attend(changed, 2)[:, :, :10], whole[:, :, :10])
    torch.testing.assert_close(attend(qkv[:, :7], 2), whole[:, :, :7])


def test_phase_rotation_equals_the_formula():
    torch.manual_seed(0)
    y = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)
    both(
        lambda x: rotate_phase(x).transpose(1, 2).flatten(1),
        lambda x: rotate_phase_ref(x.transpose(1, 2).flatten(1)),
        y,
    )


def test_phase_rotation_keeps_the_direction_and_takes_the_real_part_as_length():
    y = torch.randn(3, 4, 7, dtype=torch.float64) + 1
    rotated = rotate_phase(y)
    torch.testing.assert_close(rotated.norm(dim=1), y[:, 0].abs(), rtol=1e-4, atol=1e-6)
    cosine = torch.nn.functional.cosine_similarity(rotated, y, dim=1)
    torch.testing.assert_close(cosine, y[:, 0].sign())


def test_phase_rotation_of_zero_is_zero_with_a_finite_gradient():
    y = torch.zeros(2, 4, 3, requires_grad=True)
    rotate_phase(y).sum().backward()
    assert y.grad is not None and y.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_phase_rotation_in_low_precision(dtype):
    """Quaternions so small that float16 cannot hold their squares."""
    y = torch.randn(50, 4, 8) * 1e-3
    exact = rotate_phase(y.double())
    error = (rotate_phase(y.to(dtype)).double() - exact).norm() / exact.norm()
    assert error < 0.02


def test_planar_order_changes_nothing_but_the_order():
    """Rows and columns in planar order: the same output as consecutive channels."""
    torch.manual_seed(0)
    heads, width = 2, 24
    x, weight, output = (torch.randn(*shape).double() for shape in ((2, 9, width), (3 * width, width), (width, width)))
    plain = rotate_phase_ref(attend(x @ weight.t(), heads).transpose(1, 2).flatten(-2)) @ output.t()
    mixed = attend(x @ planar_rows(weight, 3 * heads).t(), heads)
    planar = rotate_phase(planar_heads(mixed)).view_as(x) @ planar_columns(output).t()
    torch.testing.assert_close(planar, plain)


def test_the_published_layout_sees_other_bytes():
    """At 128 bytes of context and 8 heads a position sees at most 15 bytes back."""
    qkv = torch.randn(1, 128, 3 * 64, dtype=torch.float64, requires_grad=True)
    seen = torch.autograd.grad(attend_published(qkv, 8)[0, 100].sum(), qkv)[0][0].abs().sum(-1).nonzero().flatten()
    assert seen.max() <= 100 and 100 - seen.min() <= 15
