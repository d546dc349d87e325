"""The family `low_rank`: W = U V with `fixed_rank` columns in U and rows in V; it has no blocks."""

from typing import Any

from h2q.layers.structure import Sizes, Structure


def _sizes(width: int, inputs: int, outputs: int, factor: int, rank: int) -> Sizes:
    return {"i": inputs, "o": outputs, "r": rank}


LOW_RANK = Structure(factors="ri", mixing="ro", reads="i", writes="o", sizes=_sizes, traffic=15)


def weight_ref(mixing: Any, factors: Any) -> Any:
    """U V, a rank at a time: mixing (R, O), factors (R, I) → (O, I)."""
    return sum(u[:, None] * v for u, v in zip(mixing, factors))
