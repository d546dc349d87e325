"""What is to be compressed, and with what. Imports nothing heavy: `--help` must be quick."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from h2q.errors import require
from pipeline.config import PRESETS

SUFFIX = ".h2q"
MOST = 1 << 10
"""Lanes, threads, and updates."""


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """Write a file as the arithmetic code of a model, or get it back. A proof of what `evaluate` says, for small files:
    every byte costs a pass of the model, in both directions."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = ""
    """The file to compress; with --decompress, the archive."""
    decompress: bool = False
    """Get the file back from an archive. It must decode to the same bytes, by sha256, or nothing is written."""
    run: str | None = None
    """A trained run whose model codes: its name or folder, its MLflow id, a registered model, `latest`, or `best`. To
    decompress, where it is now (None: under the name that the archive knows). None: a new model that learns while it
    codes, from nothing but the bytes before; the archive needs no run then."""
    preset: str | None = None
    """Of the model that learns while it codes. None: `laptop`."""
    output: str | None = None
    """The file to write. None: FILE.h2q; to decompress, the archive's name without .h2q."""
    lanes: int | None = None
    """Parts of the file that are coded side by side, faster and with as many cold starts. None: for a run one for each
    16 kB, at most 32; else 4."""
    updates: int | None = None
    """Of the model that learns: optimizer steps for a chunk, see `jobs/evaluate.py --mode prequential`. None: 2."""
    threads: int = 1
    """CPU threads of torch; the archive knows them, for last digits depend on them."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""

    def __post_init__(self) -> None:
        for name in ("lanes", "updates", "threads"):
            value = getattr(self, name)
            require(value is None or 1 <= value <= MOST, f"{name} must be at least 1 and at most {MOST}, got {value}")
        require(self.output != "-", "output must be a file, got - for standard output: give --output a name")
        require(
            self.preset is None or self.preset in PRESETS,
            f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}",
        )
        require(
            self.preset is None or self.run is None,
            f"a new model of preset {self.preset} needs no run, got {self.run}: leave one of them out",
        )
        require(
            self.updates is None or self.run is None,
            f"a trained run does not learn while it codes: leave out --updates or --run, got {self.run}",
        )
        told = (self.preset, self.lanes, self.updates) != (None, None, None)
        require(
            not (self.decompress and told),
            "the archive knows preset, lanes and updates: leave them out with --decompress",
        )
