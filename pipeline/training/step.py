"""One optimizer step: gradients over micro-batches, clipped, applied unless they are not finite."""

from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from h2q.axioms import independence, orthogonality
from h2q.growth import easing
from h2q.model import ByteModel
from pipeline.config import RunConfig, TrainingConfig
from pipeline.training.graph import CapturedStep
from pipeline.training.precision import Autocast
from pipeline.training.train_state import TrainState


def optimizer_step(
    train_state: TrainState,
    forward: Any,
    x: Tensor,
    y: Tensor,
    config: RunConfig,
    autocast: Autocast,
    *,
    detailed: bool,
    reset: Tensor | None = None,
) -> dict[str, Tensor]:
    """Update the model by this worker's rows x, y (B, T) of the global batch.

    A state goes on from `train_state.carried`, is forgotten before the bytes where `reset` (B, T) is true, and is
    left there for the next step, without its gradients; behind a step that was skipped it is what it was before.

    `forward` is the model, or DistributedDataParallel around it. A step whose gradient is not finite changes nothing,
    on any worker, and is counted. Returns, detached and on the device, without waiting for it: `loss` (cross-entropy in
    nats per byte); if `detailed` also `objective`, `axiom`, `independence`, `gradient_norm`, `energy` (depth,) and of
    a state what `memory_of` says.
    """
    return make_step(train_state, forward, config, autocast)(x, y, detailed=detailed, reset=reset)


class Step(Protocol):
    """`step(x, y, detailed=…, reset=…)`: one optimizer step, see `optimizer_step`."""

    def __call__(self, x: Tensor, y: Tensor, *, detailed: bool, reset: Tensor | None = None) -> dict[str, Tensor]: ...


def make_step(
    train_state: TrainState, forward: Any, config: RunConfig, autocast: Autocast, *, graph: bool = False
) -> Step:
    """The optimizer step of a run, eager or (`graph`, on CUDA) captured once and replayed."""
    work: Step = partial(_update, train_state, forward, config, autocast)
    run: Step = CapturedStep(work, train_state) if graph else work

    def step(x: Tensor, y: Tensor, *, detailed: bool, reset: Tensor | None = None) -> dict[str, Tensor]:
        # Around the whole step, which changes weights only at its end: what eases new ranks reads the host's counters.
        with easing(train_state.model, train_state.growth, train_state.counters.step):
            return run(x, y, detailed=detailed, reset=reset)

    return step


def _update(
    train_state: TrainState,
    forward: Any,
    config: RunConfig,
    autocast: Autocast,
    x: Tensor,
    y: Tensor,
    *,
    detailed: bool,
    reset: Tensor | None = None,
) -> dict[str, Tensor]:
    """All of a step that the device does by itself: never looks at a result, so that it can be captured."""
    model = train_state.model
    before = train_state.carried[: len(x)] if model.config.carries else model.new_state(len(x))
    measured, after = _gradients(forward, train_state.scaler, (x, y, before, reset), config, autocast, detailed)
    norm, finite = move(train_state, config.training.clip)
    before.copy_(torch.where(finite, after, before))
    if detailed:
        measured |= {"gradient_norm": norm} | memory_of(model, before)
    return measured


def move(train_state: TrainState, clip: float) -> tuple[Tensor, Tensor]:
    """Move the weights by their gradients, cut at a norm of `clip`; where that norm is not finite, count a skipped step
    instead. The norm, and whether it is finite, on the device."""
    scaler, optimizer = train_state.scaler, train_state.optimizer
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(train_state.model.parameters(), clip)
    finite = norm.isfinite()
    train_state.count(finite)
    if not scaler.is_enabled():
        # The fused optimizer leaves everything as it was where this is 1: no look at the value by the host.
        optimizer.found_inf = 1.0 - finite.float()  # type: ignore[attr-defined]
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return norm, finite


def _gradients(
    forward: Any,
    scaler: Any,
    batch: tuple[Tensor, Tensor, Tensor, Tensor | None],
    config: RunConfig,
    autocast: Autocast,
    detailed: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Add up the gradients of `config.accumulate` micro-batches of x, y, state and reset; means of what was measured
    over them, and the state behind."""
    distributed = isinstance(forward, DistributedDataParallel)
    model = forward.module if distributed else forward
    parts = list(zip(*(_parts(whole, config.accumulate) for whole in batch), strict=True))
    total: dict[str, Tensor] = {}
    states: list[Tensor] = []
    for number, (part_x, part_y, state, reset) in enumerate(parts, start=1):
        # Workers exchange gradients once a step, with the last micro-batch.
        with forward.no_sync() if distributed and number < len(parts) else nullcontext():
            with autocast():
                logits, *others = forward(part_x, energy=detailed, state=state, reset=reset)
            states.append(others.pop().detach())
            measured = {"loss": functional.cross_entropy(logits.flatten(0, 1), part_y.flatten())}
            objective = measured["loss"] + penalties(model, config.training, measured, detailed)
            scaler.scale(objective / len(parts)).backward()
        if detailed:
            measured |= {"objective": objective, "energy": others[0]}
        for name, value in measured.items():
            total[name] = total.get(name, 0) + value.detach() / len(parts)
    return total, torch.cat(states)


def _parts(whole: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if whole is None else whole.chunk(count)


@torch.no_grad()
def memory_of(model: ByteModel, state: Tensor) -> dict[str, Tensor]:
    """Of a state (B, depth, size): `state_energy` (depth,), its mean L2 norm over lanes, and of its half-lives in bytes
    the median, `half_life` (depth,), with the deciles at both ends, `half_life_p10` and `half_life_p90`."""
    half_lives = model.half_lives()
    if half_lives is None:
        return {}
    # One by one: a tensor of all three would be copied from the host, which a captured step may not do.
    median, shorter, longer = (half_lives.quantile(share, dim=1) for share in (0.5, 0.1, 0.9))
    energy = torch.linalg.vector_norm(state[:, : model.config.depth], dim=-1).mean(0)
    return {"state_energy": energy, "half_life": median, "half_life_p10": shorter, "half_life_p90": longer}


def penalties(
    model: ByteModel, training: TrainingConfig, measured: dict[str, Tensor], detailed: bool
) -> Tensor | float:
    """0.01 (λ axiom + λ' independence); what is computed is put into `measured`, if `detailed` also at weight 0."""
    total: Tensor | float = 0.0
    for name, penalty, weight in (
        ("axiom", orthogonality, training.axiom_lambda),
        ("independence", independence, training.independence_lambda),
    ):
        if weight > 0 or detailed:
            with torch.set_grad_enabled(weight > 0):
                measured[name] = penalty(model)
            total = total + 0.01 * weight * measured[name]
    return total
