"""What a projector is asked for. Imports nothing heavy: `--help` must be quick."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from h2q.config import ModelConfig, ProjectorConfig
from h2q.errors import require
from pipeline.config import RunConfig, TrackingConfig, TrainingConfig

FOLDER = "projectors"
"""In the folder of a core: its projectors, each a run of its own."""

UNTRAINED = "untrained"
"""The name of the control, unless options say otherwise."""

DECODER = RunConfig(
    name="projector",
    model=ModelConfig(
        kind="dense",
        mixer="state",
        dim=64,
        depth=2,
        heads=4,
        halves=False,
        phase_rotation=False,
        ffn_expansion=2,
        ngrams="2:1024x16,3:2048x16,4:1024x16",
        dropout=0.0,
    ),
    training=TrainingConfig(
        steps=7000,
        lanes=24,
        learning_rate=5e-3,
        embedding_lr=2.0,
        table_decay=0.02,
        beta2=0.99,
        warmup=200,
        floor=0.02,
        axiom_lambda=0.0,
        cold_starts=0.1,
        log_every=100,
        evaluate_every=2000,
        evaluate_bytes=1 << 17,
        save_every=1000,
    ),
    tracking=TrackingConfig(experiment="h2q projectors"),
)
"""The decoder, and how it is trained, unless options say otherwise."""


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """Translate the state of a trained run, its core, back to text: train a projector, an independent byte decoder that
    is given the core's state of one moment and writes what was there; judge it; read files with it.

    The options of `jobs/train.py` are those of the projector's own training, which lies in the core's folder. The core
    is never changed."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = "latest"
    """The core: the name or folder of a run, its MLflow id, a registered model, `latest`, or `best`."""
    read: str | None = None
    """Read this file with a projector that is there already, instead of training one."""
    at: int | None = None
    """The moment that is read: so many bytes of the file lie before it. None: the middle."""
    html: str | None = None
    """With --read: write a page to scrub through the file, one HTML file that needs nothing else."""
    moments: int = 200
    """With --html: moments on the page, evenly from --at (None: the beginning) to the end of the file."""
    untrained: bool = False
    """Train on the core's model with new weights instead: a control, which is judged beside the projector."""
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    judge: bool = True
    """Judge the projector when it is trained."""
    training_run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: DECODER)

    def __post_init__(self) -> None:
        require(self.html != "-", "html must be a file, got - for standard output: give --html a name")
        for name in ("at", "html"):
            value = getattr(self, name)
            require(
                value is None or self.read is not None,
                f"--{name} is about a file to read: give --read FILE too, got --{name} {value}",
            )
        require(self.moments >= 1, f"moments must be at least 1, got {self.moments}")


def check_offset(size: int, offset: int) -> None:
    """Raises: UserError unless there is a byte before the moment."""
    require(
        1 <= offset <= size,
        f"at must be an offset in the text, with at least 1 byte before it: 1 to {size}, got {offset}",
    )
