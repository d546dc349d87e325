"""Loading a trained run: its config, its best checkpoint, its model."""

from pathlib import Path
from typing import TYPE_CHECKING

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.runs.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    checkpoint_folder,
    config_of,
    newest_state,
    newest_valid,
    read_checkpoint,
)
from pipeline.runs.folder import LOST_OPTIONS, RunFolder
from pipeline.runs.older import config_from

if TYPE_CHECKING:  # torch takes seconds to load: who only looks for a run need not wait for it
    from h2q.model import ByteModel


def run_config(folder: RunFolder) -> RunConfig:
    """The config of a run.

    Raises: UserError if the folder is not one of a run, or its config.json is damaged: no option that was deleted there
    becomes today's default.
    """
    stored = folder.config()
    if stored is None:
        raise UserError(f"{folder.path} is not the folder of a run: it has no config.json")
    return config_from(stored["config"], stored.get("format", 0), str(folder.config_file), LOST_OPTIONS)


def load_checkpoint(folder: RunFolder, how: str = "", *, moments: bool = False) -> tuple[Checkpoint, Path]:
    """The best checkpoint of the run by validation bits per byte, or else the newest; and its folder. `how`:
    to train on, told where there is none yet. `moments`: with those of the optimizer.

    Raises: UserError if there is none, or none that verifies.
    """
    newest = newest_state(folder.checkpoints)
    if newest and (best := newest[0].get("best")):
        try:
            path = checkpoint_folder(folder.checkpoints, best["step"])
            return read_checkpoint(path, moments=moments), path
        except DamagedCheckpoint as error:
            raise UserError(f"the best checkpoint of {folder.name} is damaged: {error}") from error
    found = newest_valid(folder.checkpoints, moments=moments)
    if found is None:
        raise UserError(
            f"{folder.name} has no checkpoint yet: let it train until its first --training.save-every steps{how}"
        )
    return found[:2]


def load_model(folder: RunFolder) -> tuple["ByteModel", RunConfig]:
    """The trained model of a run, on the CPU, ready to be evaluated; and the run's config.

    Raises: UserError as `load_checkpoint` does.
    """
    checkpoint, _ = load_checkpoint(folder)
    return model_of(checkpoint)


def model_of(checkpoint: Checkpoint) -> tuple["ByteModel", RunConfig]:
    """The model in a checkpoint, on the CPU, ready to be evaluated; and the config of its run."""
    from h2q.model import ByteModel

    config = config_of(checkpoint.state)
    require(config.projector is None, "this is a projector, no model of text: read with it by python jobs/project.py")
    model = ByteModel(config.model)
    model.load_state_dict(checkpoint.model)
    return model.eval(), config
