"""Mixers: what mixes positions in a block. One file each, and one line here.

A mixer is a module built as `(config)`. It has

* `forward(x, matrices, state, keep) → (y, state)`: x (B, T, D) → what it adds to the residual stream, (B, T, D);
  `matrices`: see `h2q.layers.source.Source`; `state` (B, `state_size`), what it carries from the bytes before, and
  behind the last byte as its second result (None where it carries nothing: `state_size` 0); `keep` (B, T) is 0 where
  the state is forgotten before the byte, else 1 (None: nowhere);
* `parts`, itself, or the mixers that it is made of; each part has `inward`, its layers that read x, `outward`, the one
  that writes to the stream, and `arranged(inward weight, inward bias, outward weight, count)`, those of `count` blocks
  below one another, in the order in which `forward` wants them;
* `reset()`: its own parameters as they start, beside those of its layers.

No torch here: `model.mixer` is checked against these names before it is loaded.
"""

from typing import NamedTuple


class Mixer(NamedTuple):
    """Where a mixer is, and what must be known of it before it is loaded."""

    path: str
    """`module:name` of what builds one."""
    attends: bool = False
    """Whether it looks back at the bytes of its chunk, and may be told of their order."""
    carries: bool = False
    """Whether it carries a state from chunk to chunk."""


MIXERS = {
    "attention": Mixer("h2q.mixers.attention:Attention", attends=True),
    "state": Mixer("h2q.mixers.state:GatedState", carries=True),
    "both": Mixer("h2q.mixers.both:Both", attends=True, carries=True),
}
"""By their names, as `model.mixer` gives them."""
