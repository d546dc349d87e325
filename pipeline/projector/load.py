"""A projector that was trained, and the core that it reads."""

import shlex
from dataclasses import replace
from typing import Any

from h2q.projector import Projector
from pipeline.config import RunConfig
from pipeline.projector.begin import find_projector
from pipeline.projector.config import FOLDER
from pipeline.projector.core import Core, find_core
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint


def load_projector(core: RunFolder, name: str) -> tuple[Projector, Core, RunConfig, dict[str, Any]]:
    """The projector of this name at its best checkpoint, its core, its config, and what the checkpoint holds besides.

    Raises: UserError where either is not there, damaged, or does not belong to the other.
    """
    bound, config = find_projector(core, name)
    found = find_core(bound)
    folder = RunFolder(core.path / FOLDER / name)
    checkpoint, _ = load_checkpoint(folder, f": python jobs/project.py {shlex.quote(core.name)} {folder.to_resume}")
    model = Projector(config.model, bound)
    model.load_state_dict(checkpoint.model)
    return model.eval(), found, replace(config, projector=bound), checkpoint.state
