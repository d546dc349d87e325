"""The phase rotation with a backward pass of its own: few operations on components that lie in long rows.

Shapes: quaternions (n, 4, m): `n` positions, their four components, `m` quaternions of a position.
"""

import torch
from torch import Tensor
from torch.autograd import Function

PHASE_EPS = 1e-6


def rotate_phase(y: Tensor) -> Tensor:
    """Quaternions (n, 4, m) → y / sqrt(|y|² + 1e-6) · Re(y): a quaternion's phase, its real part as energy."""
    return _PhaseRotation.apply(y)  # type: ignore[return-value]


class _PhaseRotation(Function):
    """With i = (|y|² + ε)^-½ and gradient g of the output: dy = g i Re(y) − y i³ Re(y) (g · y), + i (g · y) at Re."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(y)
        a, inverse = _inverse_norm(y)
        return y * (a * inverse).to(y.dtype).unsqueeze(1)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        a, inverse = _inverse_norm(y)
        along = _dot(g, y).mul_(inverse)
        scale = a.mul_(inverse)
        gradient = g * scale.to(y.dtype).unsqueeze(1)
        gradient.addcmul_(y, inverse.mul_(scale).mul_(along).to(y.dtype).unsqueeze(1), value=-1)
        gradient[:, 0] += along.to(y.dtype)
        return gradient


def _inverse_norm(y: Tensor) -> tuple[Tensor, Tensor]:
    """Re(y) and (|y|² + ε)^-½, (n, m) each, new tensors; squares in float32 where float16 could not hold them."""
    real = y[:, 0].to(torch.promote_types(y.dtype, torch.float32), copy=True)
    return real, _dot(y, y).add_(PHASE_EPS).rsqrt_()


def _dot(p: Tensor, q: Tensor) -> Tensor:
    """Real inner products of quaternions (n, 4, m) → (n, m), summed in float32 at least."""
    wide = torch.promote_types(p.dtype, torch.float32)
    p, q = (p.to(wide), p.to(wide)) if p is q else (p.to(wide), q.to(wide))
    total = p[:, 0] * q[:, 0]
    for part in (1, 2, 3):
        total.addcmul_(p[:, part], q[:, part])
    return total
