"""The family `btt`: block tensor train of two cores, W[t f, s g] = Σ_r M_r[t, f, s] B_r[s, f, g].

Qiu et al., "Compute better spent: replacing dense layers with structured matrices" (ICML 2024), equation 3 with two
cores, blocks of `factor` channels, and rank `fixed_rank`. As cheap as Hamilton layers of that rank, whose mixing of
blocks is the same for every channel and every layer.
"""

from typing import Any

from h2q.layers.structure import Structure

BTT = Structure(factors="rsfg", mixing="rtfs", traffic=110)


def weight_ref(mixing: Any, factors: Any) -> Any:
    """For each block s of the input and channel f of a block of the output an outer product of rank R: mixing
    (R, t, f, s), factors (R, s, f, g) → (t f, s g)."""
    _, blocks, channels, inputs = mixing.shape
    weight = factors.new_zeros(blocks, channels, inputs, factors.shape[-1])
    for s in range(inputs):
        for f in range(channels):
            weight[:, f, s] = mixing[:, :, f, s].transpose(0, 1) @ factors[:, s, f]
    return weight.flatten(2).flatten(0, 1)
