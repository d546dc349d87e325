"""What a run carries from step to step, and how it goes into a checkpoint and comes back."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from h2q.growth import RankGrowth
from pipeline.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer, to_host
from pipeline.journal import Record


@dataclass(kw_only=True)
class TrainingState:
    """Everything but tensors. Random numbers need no state: they are drawn from (seed, step, rank)."""

    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Seconds of training, without evaluation, over all starts of the run."""
    best: dict[str, float] | None = None
    """Step and bits per byte of the best validation so far."""
    losses: list[float] = field(default_factory=list)
    """Training losses, in nats per byte, of the steps that no record covers yet."""
    record: Record = field(default_factory=dict)
    """What was measured at this step so far; it is written to the journal after the checkpoint of the step."""

    def improves(self, bpb: float) -> bool:
        """Note a validation at this step; whether it is the best so far."""
        if self.best is not None and bpb >= self.best["bpb"]:
            return False
        self.best = {"step": self.step, "bpb": bpb}
        return True


class Trainee:
    """Model, optimizer, scaler, growth and state: what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,  # type: ignore[name-defined]
        growth: RankGrowth,
        *,
        about: dict[str, Any],
    ) -> None:
        """`about`: what else is worth knowing about a checkpoint (config, corpus, device, versions), as JSON."""
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.growth = growth
        self.state = TrainingState()
        self._about = about
        self._names = {parameter: name for name, parameter in model.named_parameters()}

    def note(self, losses: list[float]) -> None:
        """Training losses of the next steps, for the coming record and for the growth rule."""
        self.state.losses += losses
        for loss in losses:
            self.growth.observe(loss)

    def snapshot(self) -> Checkpoint:
        """A copy in host memory that later steps do not change."""
        return Checkpoint(
            model=to_host(self.model.state_dict()),
            optimizer=to_host(optimizer_tensors(self.optimizer, self._names)),
            state={
                **self._about,
                **asdict(self.state),
                "parameters": sum(parameter.numel() for parameter in self._names),
                "growth": self.growth.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a snapshot, on this model's device."""
        self.model.load_state_dict(checkpoint.model)
        restore_optimizer(self.optimizer, self._names, checkpoint.optimizer)
        self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.growth.load_state_dict(checkpoint.state["growth"])
        self.state = TrainingState(**{name: checkpoint.state[name] for name in asdict(self.state)})
