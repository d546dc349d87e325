"""What is to be exported, and how. Imports nothing heavy: `--help` must be quick."""

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Literal

import tyro

from h2q.errors import require
from pipeline.config import TrackingConfig

Format = Literal["h2q", "page", "onnx"]

_ENDINGS: dict[str, Format] = {".html": "page", ".onnx": "onnx"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained model as one file that needs no Python: for a program in C, a browser, or ONNX Runtime."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ""
    """The run: its name or folder, its MLflow id, a registered model, `latest`, or `best`."""
    to: str = ""
    """The file to write."""
    format: Format | None = None
    """`h2q`: for the runtime, one file of C; `page`: a page that holds the model and the runtime, and opens from disk;
    `onnx`: for ONNX Runtime, on a server, a phone or the web. None: page for .html, onnx for .onnx, else h2q."""
    precision: Literal["fp32", "int8"] = "int8"
    """`int8`: numbers of a byte with a scale for each row; what that costs is measured and told."""
    half: tuple[str, ...] = ()
    """Parts of an int8 model that stay fp16, by the names that an export tells where int8 costs much."""
    split: Literal["train", "validation", "test"] = "validation"
    """Which split of the run's corpus says what int8 costs."""
    data: str | None = None
    """A file that says so instead."""
    measure: bool = True
    """Measure what int8 costs at all."""
    licence: str = "not stated"
    """Under which licence the model is handed on: it stands in the file."""
    force: bool = False
    """Replace a file that is there."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def written_as(self) -> Format:
        """The format that is meant."""
        return self.format or _ENDINGS.get(PurePath(self.to).suffix.lower(), "h2q")

    def __post_init__(self) -> None:
        require(self.to != "-", "to must be a file, got - for standard output: give --to a name")
        require(
            self.precision == "int8" or not self.half,
            f"half names parts that int8 would spoil, got {' '.join(self.half)} with --precision fp32: leave it out",
        )
        require(
            self.data is None or (self.measure and self.precision == "int8"),
            f"data says what int8 costs, which is not measured here: got {self.data}; leave it out",
        )
