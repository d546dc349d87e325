"""The model of a run, as its config says."""

from typing import TYPE_CHECKING

from pipeline.config import RunConfig

if TYPE_CHECKING:
    from h2q.model import ByteModel
    from h2q.projector import Projector


def new_model(config: RunConfig) -> "ByteModel | Projector":
    """With new weights: a model of bytes, or a projector whose decoder it is."""
    from h2q.model import ByteModel
    from h2q.projector import Projector

    return ByteModel(config.model) if config.projector is None else Projector(config.model, config.projector)
