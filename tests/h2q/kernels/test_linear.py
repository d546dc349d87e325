"""`linear` is torch's own, up to rounding, in every dtype and in its gradients."""

import pytest
import torch
from torch.nn import functional

from h2q.kernels.linear import linear

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 7, 5), (300, 8)])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_value_and_gradients_are_those_of_torch(shape, dtype):
    torch.manual_seed(0)
    inputs, outputs = shape[-1], 6
    x, weight, bias = (torch.randn(*size).to(dtype) for size in (shape, (outputs, inputs), (outputs,)))
    g = torch.randn(*shape[:-1], outputs).to(dtype)
    found = []
    for function in (linear, functional.linear):
        read = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = function(*read)
        found.append([y.detach(), *torch.autograd.grad(y, read, g)])
    for ours, theirs in zip(*found):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES[dtype] * scale)


def test_gradients_that_are_one_number_everywhere_are_taken():
    x, weight, bias = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4), torch.randn(5)
    linear(x, weight, bias).sum().backward()  # its gradient has strides of zero
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 4))


def test_operands_need_not_lie_in_one_piece():
    x, weight, bias = torch.randn(4, 3).t(), torch.randn(8, 4)[::2], torch.randn(8)[::2]
    torch.testing.assert_close(linear(x, weight, bias), functional.linear(x, weight, bias))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_on_a_gpu_value_and_gradients_are_those_of_torch(dtype):
    torch.manual_seed(0)
    x, weight, bias, g = (
        torch.randn(*size, device="cuda").to(dtype) for size in ((9, 70, 64), (48, 64), (48,), (9, 70, 48))
    )
    found = []
    for function in (linear, functional.linear):
        read = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = function(*read)
        found.append([y.detach(), *torch.autograd.grad(y, read, g)])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES[dtype] * theirs.abs().max().item())
