"""What a run carries from step to step, and how it goes into a checkpoint and comes back."""

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from h2q.growth import RankGrowth
from pipeline.config import RunConfig, TrainingConfig
from pipeline.runs.checkpoint import CARRIED, Checkpoint, config_of, to_host
from pipeline.runs.journal import Record
from pipeline.runs.model import new_model
from pipeline.training.optimizer import build_optimizer, optimizer_tensors, restore_optimizer
from pipeline.training.schedule import Leg, learning_rate

if TYPE_CHECKING:  # It loads Ray.
    from pipeline.training.worker import Worker


@dataclass(kw_only=True)
class Counters:
    """What is neither tensor nor rule. Random numbers need none: they are drawn from (seed, step, world rank)."""

    step: int = 0
    """Optimizer steps done."""
    bytes_seen: int = 0
    """Bytes of the batches of those steps."""
    seconds: float = 0.0
    """Seconds of training, without evaluation, over all starts of the run."""
    wall_seconds: float = 0.0
    """Seconds of all starts of the run, everything included."""
    leg: Leg | None = None
    """Of the learning rate, where it goes down since a resume."""
    evaluated: dict[str, int] = field(default_factory=dict)
    """At which step each evaluation was done last, see `due_evaluations`."""
    best: dict[str, float] | None = None
    """Step and bits per byte of the best validation so far."""
    losses: list[float] = field(default_factory=list)
    """Training losses, in nats per byte, of the steps that no record covers yet."""
    skipped: int = 0
    """Steps that were skipped because their gradient was not finite."""
    rollbacks: int = 0
    """How often the run went back to a checkpoint; each time halves the learning rate."""
    record: Record = field(default_factory=dict)
    """What was measured at this step so far; it is written to the journal after the checkpoint of the step."""

    def improves(self, bpb: float) -> bool:
        """Note a validation at this step; whether it is the best so far, which what is not finite never is."""
        if not math.isfinite(bpb) or (self.best is not None and bpb >= self.best["bpb"]):
            return False
        self.best = {"step": self.step, "bpb": bpb}
        return True


class Diverged(Exception):
    """Too many steps in a row had a gradient that is not finite, or an evaluation was not.

    `rollbacks`: how often the run had gone back before. `unfit`: the step of an evaluation, whose checkpoint, if it is
    there, is not one to go back to.
    """

    def __init__(self, told: str, rollbacks: int, unfit: int | None = None) -> None:
        super().__init__(told)
        self.rollbacks = rollbacks
        self.unfit = unfit


class TrainState:
    """Model, optimizer, scaler, growth rule and counters: what a checkpoint holds."""

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,  # type: ignore[name-defined]
        growth: RankGrowth,
        *,
        about: dict[str, Any],
        rows: int = 0,
    ) -> None:
        """`model`: a `ByteModel`, or what else a task trains; `about`: what else is worth knowing about a checkpoint
        (config, corpus, device, versions), as JSON; `rows`: lanes of this worker."""
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.growth = growth
        self.counters = Counters()
        self._about = about
        # Counted on the device, read when a record is written: all skipped steps, and the last ones in a row.
        # Always the same tensor: a captured step knows it by its address.
        self.skipped = torch.zeros(2, device=next(model.parameters()).device)
        self.carried = model.new_state(rows)
        """What the model's mixers carry from step to step, a row for each lane of this worker."""
        self.all_lanes = self.carried
        """The same of all workers one below the other, when it was last gathered."""
        self._names = {parameter: name for name, parameter in model.named_parameters()}

    def note(self, losses: list[float], *, record: bool = False) -> None:
        """Training losses of the next steps, for the coming record, which closes here if `record`, and for the growth
        rule."""
        counters = self.counters
        counters.losses += losses
        for loss in losses:
            self.growth.observe(loss)
        if record:
            counters.record |= mean_bits(counters.losses)
            counters.losses = []

    def learning_rate(self, training: TrainingConfig) -> float:
        """Of the coming step: as scheduled, less for each growth and for each time that the run went back."""
        counters = self.counters
        scheduled = learning_rate(counters.step, training, counters.leg)
        return scheduled * self.growth.lr_factor * 0.5**counters.rollbacks

    def count(self, finite: torch.Tensor) -> None:
        """One more step, applied or skipped: `finite` is a truth value on the device."""
        skipped = 1.0 - finite.float()
        self.skipped += skipped
        self.skipped[1] *= skipped

    def check_divergence(self, limit: int) -> None:
        """Bring the counts to the host. Raises: Diverged after `limit` skipped steps in a row."""
        total, in_a_row = (int(count) for count in self.skipped.tolist())
        self.counters.skipped += total
        self.skipped[0] = 0
        if in_a_row >= limit:
            where = f"last at step {self.counters.step}, where {in_a_row} steps in a row had no finite gradient"
            raise Diverged(where, self.counters.rollbacks)

    def snapshot(self) -> Checkpoint:
        """A copy in host memory that later steps do not change."""
        skipped, in_a_row = self.skipped.tolist()
        return Checkpoint(
            model=to_host(self.model.state_dict()),
            optimizer=to_host(optimizer_tensors(self.optimizer, self._names)),
            carried=to_host({CARRIED: self.all_lanes}) if self.all_lanes.numel() else {},
            state={
                **self._about,
                **asdict(self.counters),
                "parameters": sum(parameter.numel() for parameter in self._names),
                "uncounted": [skipped, in_a_row],
                "growth": self.growth.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        )

    def gather(self, worker: "Worker", losses: list[torch.Tensor]) -> None:
        """Bring together for a snapshot what all workers know: losses of the last steps, the states of their lanes."""
        self.note(worker.means(losses))
        self.all_lanes = worker.gather(self.carried)

    def restore(self, checkpoint: Checkpoint, world_rank: int = 0) -> None:
        """Go on from a snapshot, on this model's device, with the lanes of this worker."""
        self.model.load_state_dict(checkpoint.model)
        restore_optimizer(self.optimizer, self._names, checkpoint.optimizer)
        if checkpoint.state["scaler"]:  # else it was made in another precision: a scaler of fp16 starts over
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.growth.load_state_dict(checkpoint.state["growth"])
        self.skipped.copy_(torch.tensor(checkpoint.state["uncounted"]))
        if checkpoint.carried:
            rows = len(self.carried)
            self.carried.copy_(checkpoint.carried[CARRIED][world_rank * rows : (world_rank + 1) * rows])
        known = _of_older(checkpoint.state) | checkpoint.state
        self.counters = Counters(**{name: known[name] for name in asdict(self.counters)})


def _of_older(state: dict[str, Any]) -> dict[str, Any]:
    """Counters that a checkpoint lacks if it is older than they are: it was written after its evaluations."""
    step = state["step"]
    return {
        "bytes_seen": step * config_of(state).bytes_per_step,
        "wall_seconds": state["seconds"],
        "leg": None,
        "evaluated": dict.fromkeys(("validation", "test", "sample"), step),
    }


def new_train_state(
    config: RunConfig,
    device: torch.device,
    *,
    about: dict[str, Any] | None = None,
    rows: int | None = None,
) -> TrainState:
    """A run's model with new weights drawn from its seed, and all that trains it, on the device. `rows`: lanes whose
    state it carries; None: all of the config's."""
    torch.manual_seed(config.training.seed)
    model = new_model(config).to(device)
    return TrainState(
        model,
        build_optimizer(model, config.training),
        torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),  # type: ignore[attr-defined]
        RankGrowth(config.growth, room=config.model.storage_rank - config.model.fixed_rank),
        about=about or {},
        rows=rows or config.training.lanes,
    )


def mean_bits(losses: list[float]) -> Record:
    """`train/bpb` of losses in nats per byte, without the ones of steps that were skipped; empty if none is left."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return {"train/bpb": sum(finite) / len(finite) / math.log(2)} if finite else {}


def scalars(measured: dict[str, torch.Tensor]) -> Record:
    """Finite numbers by the names of metrics; a vector over blocks gives one for each block."""
    named: Record = {}
    for name, value in measured.items():
        if value.ndim == 0:
            named[name] = value.item()
        else:
            named |= {f"{name}/block_{block:02d}": number for block, number in enumerate(value.tolist())}
    return {name: number for name, number in named.items() if math.isfinite(number)}
