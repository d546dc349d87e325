"""What a sweep asks of that which chooses its trials: the search of a space, or a study."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipeline.sweep.space import Values

if TYPE_CHECKING:
    from pipeline.sweep.sweep import Sweep


@dataclass(frozen=True)
class Skip:
    """A draw that was no configuration to try."""

    draw: int
    values: Values
    reason: str


class Wait(Exception):
    """No trial can be started before another one has ended."""


class Next(NamedTuple):
    """A trial to start."""

    configuration: int
    """From 1; a new one is one more than there are."""
    values: Values
    seed: int
    """From 0, beyond the run's own."""
    draw: int
    """The number of the draw that its values are from, from 0."""


class Plan(Protocol):
    """Chooses the trials. Remembers nothing that the sweep's folder does not hold."""

    @property
    def trials(self) -> int:
        """How many trials there may be."""
        ...

    @property
    def notes(self) -> dict[str, Any]:
        """Files that the sweep's folder holds for it, by name, as JSON."""
        ...

    @property
    def skipped(self) -> Sequence[Skip]:
        """Draws that were passed over."""
        ...

    def check(self, sweep: "Sweep") -> None:
        """Raises: UserError if there is nothing that can be trained."""
        ...

    def describe(self, values: Values) -> str:
        """What values these are, in a few words."""
        ...

    def next(self, sweep: "Sweep") -> Next | None:
        """What comes next, given all that there is; None behind the last. Raises: Wait."""
        ...
