"""What was exported, for the terminal."""

from collections.abc import Iterator

from pipeline.export.export import Outcome
from pipeline.export.measure import ALLOWED


def lines(outcome: Outcome) -> Iterator[str]:
    """The file, what int8 costs, and what else there is to know."""
    yield f"{outcome.path}  {outcome.bytes:,} bytes  sha256 {outcome.sha256[:16]}, the model of {outcome.model}"
    if (cost := outcome.cost) is not None:
        yield (
            f"int8 costs {cost.after - cost.before:+.4f} bits per byte on {cost.data}, {cost.bytes:,} bytes: "
            f"{cost.before:.4f} → {cost.after:.4f}"
        )
        if cost.worst is not None:
            yield f"that is more than {ALLOWED}: --half {cost.worst} keeps in fp16 the part that costs most"
    yield from outcome.notes
