"""y = x Wᵀ + b, the product in which the models spend their time.

On a CPU it goes through oneDNN, which torch itself takes for bfloat16 only: in float32 MKL, torch's choice, reaches two
thirds of its speed on an AMD CPU. On a GPU the gradient of the bias has a kernel of its own. Shapes: `n` positions, in
any number of dimensions, `I` inputs, `O` outputs.
"""

from functools import cache

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from h2q.kernels.columns import column_sum
from h2q.kernels.triton_there import takes_triton


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (n, I), weight (O, I), bias (O,), of one dtype → (n, O); as `torch.nn.functional.linear`, up to rounding."""
    if takes_triton(x.device) if x.device.type != "cpu" else _onednn_takes(x.dtype):
        return _Linear.apply(x, weight, bias)  # type: ignore[return-value]
    return functional.linear(x, weight, bias)


class _Linear(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows = g.flatten(0, -2)
        # MKL is as fast where the sum runs over positions.
        return _product(g, weight.t(), None), rows.t() @ x.flatten(0, -2), column_sum(rows)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.device.type != "cpu":
        return functional.linear(x, weight, bias)
    # What torch.compile makes of a linear layer on a CPU; torch gives it no other name.
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


@cache
def _onednn_takes(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
