"""Scans: step by step, composed in rounds and cut anywhere they are one long sequence; gradients are autograd's."""

import itertools
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from h2q.kernels import scan
from h2q.kernels.scan import gated_scan, gated_scan_ref, rotated_scan, rotated_scan_ref

FORMS = pytest.mark.parametrize("steps", [True, False], ids=["steps", "composed"])


def form(steps: bool):
    """The way a CPU takes, or that of a GPU, on this CPU."""
    return patch.object(scan, "takes_steps", lambda _: steps)


def drawn(length: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """p (2, T, 12), start (2, 4), keep (2, T)."""
    generator = torch.Generator().manual_seed(seed)
    p = 2 * torch.randn(2, length, 12, dtype=torch.float64, generator=generator)
    keep = (torch.rand(2, length, generator=generator) > 0.2).to(dtype)
    return p.to(dtype), torch.randn(2, 4, dtype=torch.float64, generator=generator).to(dtype), keep


def quaternions(length: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, u (T, 4, 2, 3), start (4, 2, 3)."""
    generator = torch.Generator().manual_seed(seed)
    q, u = torch.randn(2, length, 4, 2, 3, dtype=torch.float64, generator=generator)
    return 0.4 * q, u, torch.randn(4, 2, 3, dtype=torch.float64, generator=generator)


@FORMS
@settings(max_examples=30)
@given(length=st.integers(1, 40), seed=st.integers(0, 999), forget=st.booleans())
def test_the_gated_scan_and_its_gradients_are_those_of_the_formula(steps, length, seed, forget):
    p, start, keep = drawn(length, seed)
    weights = torch.randn(2, length, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    results = []
    function: Any
    for function in (gated_scan, gated_scan_ref):
        leaves = [p.clone().requires_grad_(), start.clone().requires_grad_()]
        with form(steps):
            y, end = function(*leaves, keep if forget else None)
            gradients = torch.autograd.grad((y * weights[0]).sum() + (end * weights[1]).sum(), leaves)
        results.append((y, end, *gradients))
    for fast, naive in zip(*results):
        torch.testing.assert_close(fast, naive, rtol=1e-10, atol=1e-10)


@FORMS
@settings(max_examples=20)
@given(length=st.integers(1, 20), seed=st.integers(0, 999))
def test_the_rotated_scan_and_its_gradients_are_those_of_the_formula(steps, length, seed):
    drawn_once, results = quaternions(length, seed), []
    weights = torch.randn(length, 4, 2, 3, dtype=torch.float64)
    for function in (rotated_scan, rotated_scan_ref):
        leaves = [part.clone().requires_grad_() for part in drawn_once]
        with form(steps):
            s = function(*leaves)
            results.append((s, *torch.autograd.grad((s * weights).sum(), leaves)))
    for fast, naive in zip(*results):
        torch.testing.assert_close(fast, naive, rtol=1e-10, atol=1e-10)


@FORMS
@settings(max_examples=30)
@given(length=st.integers(1, 40), cuts=st.sets(st.integers(1, 39)), seed=st.integers(0, 999))
def test_a_sequence_cut_anywhere_is_one_long_sequence(steps, length, cuts, seed):
    p, start, keep = drawn(length, seed)
    edges = [0, *sorted(cut for cut in cuts if cut < length), length]
    with form(steps):
        whole, end = gated_scan(p, start, keep)
        state, chunks = start, []
        for first, last in itertools.pairwise(edges):
            y, state = gated_scan(p[:, first:last], state, keep[:, first:last])
            chunks.append(y)
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, end, rtol=1e-10, atol=1e-10)


@FORMS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_in_low_precision_only_the_output_is_rounded(steps, dtype, tolerance):
    p, start, _ = drawn(300, 0, dtype)
    with form(steps):
        y, end = gated_scan(p, start.float())
    exact, exact_end = gated_scan_ref(p.double(), start.double())
    assert y.dtype == dtype and end.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(end.double(), exact_end, rtol=1e-5, atol=1e-5)


def test_what_is_forgotten_does_not_come_back():
    p, start, _ = drawn(9, 0)
    keep = torch.ones(2, 9, dtype=torch.float64)
    keep[0, 4] = 0
    cut, _ = gated_scan(p, start, keep)
    again, _ = gated_scan(p[:, 4:], torch.zeros_like(start))
    torch.testing.assert_close(cut[0, 4:], again[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(cut[1, 4:], again[1])


@pytest.mark.gpu
@pytest.mark.parametrize("forget", [True, False], ids=["forgets", "keeps"])
@pytest.mark.parametrize(("lanes", "length", "width"), [(1, 1, 8), (3, 64, 40), (2, 130, 33), (24, 128, 256)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)], ids=str)
def test_the_scan_in_one_kernel_is_the_composed_one(dtype, tolerance, lanes, length, width, forget):
    torch.manual_seed(0)
    p, g = 2 * torch.randn(lanes, length, 3 * width, device="cuda"), torch.randn(lanes, length, width, device="cuda")
    start, to_end = torch.randn(2, lanes, width, device="cuda")
    keep = (torch.rand(lanes, length, device="cuda") > 0.1).float() if forget else None
    found = []
    for function in (scan._FusedScan.apply, scan._GatedScan.apply):
        leaves = [p.to(dtype).requires_grad_(), start.clone().requires_grad_()]
        y, end = function(*leaves, keep)
        found.append([y, end, *torch.autograd.grad([y, end], leaves, [g.to(dtype), to_end])])
    for ours, theirs in zip(*found, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=tolerance, atol=tolerance * scale)
