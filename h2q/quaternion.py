"""Quaternions, with numbers or with square matrices as their four components.

Shapes: `s` size of a component; a quaternion is `(..., 4, s, s)` with components a, b, c, d of a + bi + cj + dk.
"""

import torch
from torch import Tensor


def hamilton_product(p: Tensor, q: Tensor) -> Tensor:
    """The product p q of quaternions with numbers as components, (..., 4) each, not commutative: ij = k, ji = −k."""
    a, b, c, d = p.unbind(-1)
    e, f, g, h = q.unbind(-1)
    return torch.stack(
        (
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ),
        dim=-1,
    )


def hamilton_matrix(components: Tensor) -> Tensor:
    """Left multiplication by quaternions as matrices: (..., 4, s, s) → (..., 4s, 4s), so that H(p) H(q) = H(pq)."""
    a, b, c, d = components.unbind(-3)
    rows = ((a, -b, -c, -d), (b, a, -d, c), (c, d, a, -b), (d, -c, b, a))
    return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)
