"""The phase rotation in one kernel is the phase rotation."""

import pytest
import torch

from h2q.kernels.packed import can_pack, rotate_packed
from h2q.mixers.attention import rotate_phase_ref


def test_a_cpu_has_other_ways():
    assert not can_pack(torch.device("cpu"), torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)], ids=str
)
def test_value_and_gradient_are_those_of_the_formula(dtype, tolerance):
    assert can_pack(torch.device("cuda"), dtype)
    torch.manual_seed(0)
    y, g = torch.randn(2, 96, 64, device="cuda").to(dtype)
    found, wanted = y.clone().requires_grad_(), y.double().requires_grad_()
    output, exact = rotate_packed(found), rotate_phase_ref(wanted)
    output.backward(g)
    exact.backward(g.double())
    torch.testing.assert_close(output.double(), exact, rtol=tolerance, atol=1e-4)
    assert found.grad is not None and wanted.grad is not None
    torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=tolerance, atol=1e-3)
