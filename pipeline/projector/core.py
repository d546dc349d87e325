"""The frozen core: the model of a run whose states are read. It is never changed, and known by its weights' sha256.

Shapes: `B` lanes, `T` bytes, `F` numbers of a moment.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from h2q.config import BoundProjector
from h2q.errors import UserError, require
from h2q.mixers import MIXERS
from h2q.model import ByteModel
from pipeline.evaluation.subject import new_weights
from pipeline.runs.checkpoint import DamagedCheckpoint, read_checkpoint, weights_sha256
from pipeline.runs.load import model_of
from pipeline.storage.path import locate


class Reader(Protocol):
    """What reads bytes and has states: a core, or a stand-in of which is known what it holds."""

    attends: bool
    """Whether what it is at a moment depends on how many bytes it reads at once."""

    def to(self, device: torch.device) -> object:
        """Move there."""
        ...

    def new_state(self, lanes: int) -> Tensor:
        """Before the first byte, a row for each lane."""
        ...

    def moment(self, x: Tensor, state: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Bytes (B, T) behind a state → the numbers of the moment behind the last one (B, F), and the state there.
        Where `reset` (B, T) is true all before the byte is forgotten."""
        ...


class Core:
    """A trained model that only reads.

    A moment is the states of all blocks and the residual stream that the head reads; not the symbols of the last bytes
    which tables of n-grams carry along: those are the text itself. `given` the stream alone, the states are left out.
    """

    def __init__(self, model: ByteModel, given: str = "moment") -> None:
        self.model, self._given = model.eval().requires_grad_(False), given
        self.attends = MIXERS[model.config.mixer].attends

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    def new_state(self, lanes: int) -> Tensor:
        return self.model.new_state(lanes)

    @torch.no_grad()
    def moment(self, x: Tensor, state: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self.model.config.carries:  # what lies before its window is nothing to it
            x = x[:, -self.model.config.seq_len :]
            reset = None if reset is None else reset[:, -x.shape[1] :]
        _, stream, after = self.model(x, with_stream=True, state=state, reset=reset)
        if self._given == "stream":
            return stream[:, -1], after
        return torch.cat((after[:, : self.model.config.depth].flatten(1), stream[:, -1]), dim=1), after


def find_core(projector: BoundProjector) -> Core:
    """The core that a projector reads. Raises: UserError where it is gone, damaged, or another one now."""
    path = locate(projector.core)
    check_core(projector, path)
    try:
        model, config = model_of(read_checkpoint(path, moments=False))
    except DamagedCheckpoint as error:
        raise UserError(f"the core of the projector is damaged: {error}; train another projector") from error
    return Core(new_weights("", config).model if projector.untrained else model, projector.given)


def check_core(projector: BoundProjector, path: Any) -> None:
    """Raises: UserError unless the checkpoint's weights are those that the projector was trained on."""
    try:
        found = weights_sha256(path)
    except FileNotFoundError:
        raise UserError(
            f"the core of the projector is gone: there is no {path}; train another projector, under another --name"
        ) from None
    require(
        found == projector.sha256,
        f"a projector reads the core that it was trained on, whose sha256 is {projector.sha256[:16]}, and {path} has "
        f"{found[:16]}: train another projector, under another --name",
    )
