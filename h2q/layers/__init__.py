"""Weight families: how a layer comes by its weight matrix. One file each, and one line here.

A family is built by `module:name` as `(config, inputs, outputs)`, both widths in channels. It has `bias` (outputs,),
`initialise(gain)` (gain 0 for what writes to the residual stream, else 1: a weight that starts at zero must still get a
gradient), and `weight` (outputs, inputs), a parameter or a property. `hamilton` alone has no weight of its own: the
model's bank generates those of all layers. A family may have besides

* `by_factors`, true where its layers multiply without a weight, and then `multiply(layers, x, matrices)`, see
  `h2q.layers.cores`;
* `rates`: a factor on the learning rate for each parameter by name, beside a dense layer's of the same inputs;
* `grow(rank, generator)`: make one more of its ranks active, of which no output changes yet.

No torch here: `model.kind` is checked against these names before it is loaded.
"""

from collections.abc import Callable
from typing import NamedTuple

from h2q.layers.btt import BTT
from h2q.layers.low_rank import LOW_RANK
from h2q.layers.monarch import MONARCH
from h2q.layers.phm import PHM
from h2q.layers.structure import Structure


class Family(NamedTuple):
    """Where a family is, and what must be known of it before it is loaded."""

    path: str
    """`module:name` of what builds a layer."""
    structure: Structure | None = None
    """Of a family whose weights are made of two cores; of `hamilton` with one factor a layer."""
    grain: int = 0
    """The width is a multiple of so many blocks of `model.factor` channels; 0: it has no blocks."""
    most_ranks: Callable[[int, int], int] | None = None
    """Blocks and factor → the largest useful rank, by a formula that is said; None: it has no ranks."""
    square: bool = False
    """Whether its layers are as wide out as in."""


HAMILTON = Structure(factors="rfg", mixing="rts", shared=True)
PER_BLOCK = Structure(factors="rsfg", mixing="rts", shared=True, traffic=33)
_CORES = "h2q.layers.cores:new_layer"

FAMILIES = {
    "hamilton": Family("h2q.layers.hamilton:new_layer", HAMILTON, 4, lambda s, f: 4 * (s // 4) ** 2, square=True),
    "dense": Family("h2q.layers.dense:DenseLinear"),
    "phm": Family(_CORES, PHM, 1, lambda s, f: min(s, f) ** 2),
    "btt": Family(_CORES, BTT, 1, min),
    "monarch": Family(_CORES, MONARCH, 1),
    "low_rank": Family(_CORES, LOW_RANK, 0, lambda s, f: s * f),
}
"""By their names, as `model.kind` gives them."""


def growing() -> list[str]:
    """Families whose layers have ranks, which may grow."""
    return [name for name, family in FAMILIES.items() if family.most_ranks is not None]
