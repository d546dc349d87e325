"""Sum, LayerNorm and cast between two branches: the plain operations, and on a GPU one kernel that does the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from h2q.kernels.norm import add_norm, fused_add_norm


def test_the_sum_is_what_is_normalised():
    torch.manual_seed(0)
    norm = nn.LayerNorm(8)
    nn.init.normal_(norm.weight)
    stream, added = torch.randn(2, 3, 8), torch.randn(2, 3, 8).bfloat16()
    total, normed = add_norm(stream, added, norm, torch.bfloat16)
    assert torch.equal(total, stream + added) and torch.equal(normed, norm(stream + added).bfloat16())
    same, normed = add_norm(stream, None, norm, torch.float32)
    assert same is stream and torch.equal(normed, norm(stream))


@pytest.mark.gpu
@pytest.mark.parametrize("added", [True, False], ids=["added", "nothing added"])
@pytest.mark.parametrize("half", [True, False], ids=["half of a stream", "whole stream"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)], ids=str)
@pytest.mark.parametrize(("positions", "width"), [(1, 8), (37, 256), (5000, 96), (3, 3000)])
def test_one_kernel_does_as_the_plain_operations(positions, width, dtype, tolerance, half, added):
    torch.manual_seed(0)
    wide = torch.randn(2, positions, 2 * width, device="cuda")
    stream = (wide[..., width:] if half else wide[..., width:].contiguous()).requires_grad_()
    weight, bias = (torch.randn(width, device="cuda", requires_grad=True) for _ in range(2))
    more = torch.randn_like(stream).to(dtype).requires_grad_() if added else None
    to_total, to_normed = torch.randn_like(stream), torch.randn_like(stream).to(dtype)

    def plain():
        total = stream if more is None else stream + more
        return total, functional.layer_norm(total, (width,), weight, bias, 1e-5).to(dtype)

    found = []
    for function in (lambda: fused_add_norm(stream, more, weight, bias, 1e-5, dtype), plain):
        outputs = function()
        read = [leaf for leaf in (stream, more, weight, bias) if leaf is not None]
        found.append([*outputs, *torch.autograd.grad(outputs, read, [to_total, to_normed])])
    for ours, theirs in zip(*found, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=tolerance, atol=tolerance * scale)
