"""The family `phm`: parameterised hypercomplex multiplication, W = Σ_r A_r ⊗ B_r with free A_r, each layer's own.

Zhang et al., "Beyond fully-connected layers with quaternions: parameterization of hypercomplex multiplications with 1/n
parameters" (ICLR 2021), equation 4: there are as many terms as blocks, `fixed_rank` = width / `factor`; here as many as
wanted. Hamilton layers have the matrices H(Q_r) of a shared bank instead of the A_r.
"""

from typing import Any

from h2q.layers.structure import Structure

PHM = Structure(factors="rfg", mixing="rts")


def weight_ref(mixing: Any, factors: Any) -> Any:
    """Σ_r A_r ⊗ B_r, block by block: mixing (R, t, s), factors (R, F, F) → (t F, s F)."""
    size = factors.shape[-1]
    weight = factors.new_zeros(mixing.shape[1] * size, mixing.shape[2] * size)
    for a, b in zip(mixing, factors):
        for t, row in enumerate(a):
            for s, scale in enumerate(row):
                weight[t * size : (t + 1) * size, s * size : (s + 1) * size] += scale * b
    return weight
