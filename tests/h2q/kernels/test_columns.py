"""Sums of columns: torch's, and on a GPU by a kernel of our own."""

import pytest
import torch

from h2q.kernels.columns import column_sum

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def test_columns_are_summed():
    torch.testing.assert_close(column_sum(torch.ones(3, 2)), torch.full((2,), 3.0))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(1, 1), (77, 128), (100_000, 300)])
def test_on_a_gpu_columns_are_summed_as_torch_does(shape, dtype):
    torch.manual_seed(0)
    x = torch.randn(*shape, device="cuda").to(dtype)
    for matrix in (x, x.t().contiguous().t()):
        wanted = matrix.double().sum(0)
        torch.testing.assert_close(column_sum(matrix).double(), wanted, rtol=TOLERANCES[dtype], atol=1e-2)
