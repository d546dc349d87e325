"""The energy of the residual stream, block by block: what is healthy, and what is not."""

from collections.abc import Iterable

from pipeline.runs.journal import Record

STEEP = 10.0
"""A last block with so many times the energy of the first: the stream explodes with depth."""

HEALTHY = "Healthy: it rises while the learning rate does, then levels off; from block to block it grows little"


def of_blocks(names: Iterable[str], metric: str) -> list[str]:
    """The names of a metric that each block has a value of, in the order of the blocks."""
    found = {name for name in names if name.startswith(f"{metric}/")}
    return sorted(found, key=lambda name: (len(name), name))  # 99 before 100


def energies(record: Record) -> list[float]:
    """Of each block, where the record has them."""
    return [record[name] for name in of_blocks(record, "energy")]


def steepness(record: Record) -> float:
    """Energy of the last block over that of the first; 1 where there is none."""
    found = energies(record)
    return found[-1] / found[0] if len(found) > 1 and found[0] > 0 else 1.0
