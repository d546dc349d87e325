"""What long work tells whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """A `note` is a sentence in `text`; `progress` counts bytes of input."""

    kind: Literal["note", "progress"]
    text: str = ""
    done: int = 0
    total: int = 0


OnEvent = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tells nobody."""
