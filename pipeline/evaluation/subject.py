"""What is evaluated: a trained run's best checkpoint, or new weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from h2q.model import ByteModel
from pipeline.config import PRESETS, RunConfig
from pipeline.evaluation.config import EvaluationConfig
from pipeline.runs.checkpoint import Checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint, model_of


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, its config, and where it is from."""

    name: str
    model: ByteModel
    config: RunConfig
    checkpoint: Checkpoint | None = None
    """None: new weights."""
    path: Path | None = None
    """Of the checkpoint."""

    @property
    def step(self) -> int:
        """Of the checkpoint, 0 for new weights."""
        return self.checkpoint.state["step"] if self.checkpoint else 0


def find_subject(options: EvaluationConfig, folder: RunFolder | None) -> Subject:
    """The run in the folder, or new weights where there is none. Raises: UserError for a run that has no checkpoint
    that verifies."""
    if folder is None:
        assert options.preset is not None
        return new_weights(options.preset, PRESETS[options.preset])
    checkpoint, path = load_checkpoint(folder, moments=options.mode == "prequential")
    model, config = model_of(checkpoint)
    if options.fresh:
        return new_weights(f"{folder.name}, untrained", config)
    return Subject(name=folder.name, model=model, config=config, checkpoint=checkpoint, path=path)


def new_weights(name: str, config: RunConfig) -> Subject:
    """An untrained model of the config."""
    torch.manual_seed(config.training.seed)
    return Subject(name=name, model=ByteModel(config.model), config=config)
