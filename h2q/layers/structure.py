"""Weights W (O, I) made of two cores, as two sums written by the letters of their axes. Counts come from the letters.

The input, cut into blocks, goes through the core `factors`, which acts within a block, then through the core `mixing`,
across blocks; W itself is the sum over what both share. (The einsum taxonomy of Potapczynski et al., "Searching for
efficient linear layers over a continuous space of structured matrices", 2024.) No torch here.

Letters: `s` blocks of the input, `g` channels of one; `t` blocks of the output, `f` channels of one; `r` rank; without
blocks `i` inputs, `o` outputs. `l` (layers) and `n` (positions) are for the callers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

BUILT = 1.08
"""Time of a training step through a layer whose W is made of its cores, 1 being that of a dense layer."""

Sizes = dict[str, int]
"""Length of the axis of each letter."""


def blocks_of(width: int, inputs: int, outputs: int, factor: int, rank: int) -> Sizes:
    """Blocks of `factor` channels on both sides."""
    return {"s": inputs // factor, "g": factor, "t": outputs // factor, "f": factor, "r": rank}


@dataclass(frozen=True)
class Structure:
    """The axes of two cores, and of what they read and write."""

    factors: str
    mixing: str
    reads: str = "sg"
    writes: str = "tf"
    sizes: Callable[[int, int, int, int, int], Sizes] = blocks_of
    """Of a layer: model's width, inputs, outputs, `model.factor`, rank → lengths of axes."""
    shared: bool = False
    """Whether `mixing` is not the layer's own, but the bank's."""
    traffic: float = 65
    """Time of a number that is read, handed from core to core or written, in multiply-adds of one large product. This
    and `BUILT` are measured on a CPU, forward and backward, see the log of the benchmark room."""

    @property
    def between(self) -> str:
        """The axes of what stands between the two cores."""
        letters = dict.fromkeys(self.factors + self.reads)
        summed = [letter for letter in letters if letter in self.mixing and letter not in self.writes]
        return "".join([*summed, *(letter for letter in letters if letter in self.writes)])

    @property
    def fan_ins(self) -> dict[str, str]:
        """Over which axes each core sums."""
        summed = "".join(letter for letter in self.reads if letter not in self.between)
        return {"factors": summed, "mixing": "".join(letter for letter in self.between if letter not in self.writes)}

    def parameters(self, sizes: Sizes) -> int:
        """Numbers in the layer's own cores."""
        return volume(self.factors, sizes) + (0 if self.shared else volume(self.mixing, sizes))

    def multiply_adds(self, sizes: Sizes) -> int:
        """Of one position through both cores."""
        return volume(self.factors + self.reads, sizes) + volume(self.mixing + self.between, sizes)

    def generation(self, sizes: Sizes) -> int:
        """Multiply-adds to make W."""
        return volume(self.factors + self.mixing, sizes)

    def by_factors(self, sizes: Sizes) -> bool:
        """Whether training is faster through the cores than with W made of them, by what was measured."""
        moved = sum(volume(axes, sizes) for axes in (self.reads, self.between, self.writes))
        return self.multiply_adds(sizes) + self.traffic * moved < BUILT * volume(self.reads + self.writes, sizes)


def volume(letters: str, sizes: Sizes) -> int:
    """Product of the lengths of these axes, each once."""
    return math.prod(sizes[letter] for letter in set(letters))
