"""The family `monarch`: two block-diagonal matrices with a permutation behind each, W = P L Pᵀ R.

Dao et al., "Monarch: expressive structured matrices for efficient and accurate training" (ICML 2022), equation 1, with
as many blocks as a width has of `factor` channels, in both. Written by axes it is a block tensor train (`btt`) whose
output is cut the other way, into blocks of as many channels as there are input blocks; every output reads every input
where `factor` is a multiple of that number.
"""

from typing import Any

from h2q.layers.structure import Sizes, Structure


def _sizes(width: int, inputs: int, outputs: int, factor: int, rank: int) -> Sizes:
    blocks = width // factor
    return {"s": inputs // factor, "g": factor, "t": outputs // blocks, "f": blocks, "r": factor // blocks}


MONARCH = Structure(factors="rsfg", mixing="rtfs", sizes=_sizes, traffic=110)


def weight_ref(mixing: Any, factors: Any) -> Any:
    """The two block-diagonal matrices and the permutations, as matrices: mixing (r, t, f, s), factors (r, s, f, g) →
    (t f, s g)."""
    rank, inward, channels, size = factors.shape
    outward = mixing.shape[1]
    right = factors.new_zeros(inward * rank * channels, inward * size)
    for s in range(inward):  # A block of R: its rows are (r, f).
        rows = slice(s * rank * channels, (s + 1) * rank * channels)
        right[rows, s * size : (s + 1) * size] = factors[:, s].flatten(0, 1)
    left = factors.new_zeros(channels * outward, channels * inward * rank)
    for f in range(channels):  # A block of L: its columns are (s, r).
        columns = slice(f * inward * rank, (f + 1) * inward * rank)
        left[f * outward : (f + 1) * outward, columns] = mixing[:, :, f].permute(1, 2, 0).flatten(1)
    between = right.unflatten(0, (inward * rank, channels)).transpose(0, 1).flatten(0, 1)
    return (left @ between).unflatten(0, (channels, outward)).transpose(0, 1).flatten(0, 1)
