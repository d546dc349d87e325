"""Peaks are what the formula says, forwards and backwards, however many rows are computed at once."""

import torch

from h2q.kernels import peaks
from h2q.kernels.peaks import add_peaks, add_peaks_ref


def test_logits_and_gradients_are_those_of_the_formula(monkeypatch):
    monkeypatch.setattr(peaks, "ROWS", 4)
    torch.manual_seed(0)
    logits, mean = torch.randn(2, 5, 260, dtype=torch.float64), 255 * torch.rand(2, 5, 3, dtype=torch.float64)
    square, power = (torch.rand(2, 5, 3, dtype=torch.float64) + 0.1 for _ in range(2))
    parts = [part.requires_grad_() for part in (logits, mean, square, power)]
    weight = torch.randn(2, 5, 260, dtype=torch.float64)
    one, two = ((make(*parts) * weight).sum() for make in (add_peaks, add_peaks_ref))
    torch.testing.assert_close(add_peaks(*parts), add_peaks_ref(*parts))
    for found, wanted in zip(torch.autograd.grad(one, parts), torch.autograd.grad(two, parts)):
        torch.testing.assert_close(found, wanted)


def test_markers_have_no_value_and_no_power_no_peak():
    logits, mean = torch.randn(1, 1, 260), torch.full((1, 1, 1), 77.0)
    raised = add_peaks(logits, mean, torch.full((1, 1, 1), 0.5), torch.ones(1, 1, 1)) - logits
    assert torch.equal(raised[..., 256:], torch.zeros(1, 1, 4)) and raised[..., :256].argmax() == 77
    assert torch.equal(add_peaks(logits, mean, torch.ones(1, 1, 1), torch.zeros(1, 1, 1)), logits)
