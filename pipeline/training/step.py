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
) -> dict[str, Tensor]:
    """Update the model by this worker's rows x, y (B, T) of the global batch.

    `forward` is the model, or DistributedDataParallel around it. A step whose gradient is not finite changes nothing,
    on any worker, and is counted. Returns, detached and on the device, without waiting for it: `loss` (cross-entropy in
    nats per byte); if `detailed` also `objective`, `axiom`, `independence`, `gradient_norm` and
    `energy` (depth,).
    """
    return make_step(train_state, forward, config, autocast)(x, y, detailed=detailed)


class Step(Protocol):
    """`step(x, y, detailed=…)`: one optimizer step, see `optimizer_step`."""

    def __call__(self, x: Tensor, y: Tensor, *, detailed: bool) -> dict[str, Tensor]: ...


def make_step(
    train_state: TrainState, forward: Any, config: RunConfig, autocast: Autocast, *, graph: bool = False
) -> Step:
    """The optimizer step of a run, eager or (`graph`, on CUDA) captured once and replayed."""
    work: Step = partial(_update, train_state, forward, config, autocast)
    run = CapturedStep(work, train_state) if graph else work

    def step(x: Tensor, y: Tensor, *, detailed: bool) -> dict[str, Tensor]:
        # Around the whole step, which changes weights only at its end: what eases new ranks reads the host's counters.
        with easing(train_state.model, train_state.growth):
            return run(x, y, detailed=detailed)

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
) -> dict[str, Tensor]:
    """All of a step that the device does by itself: never looks at a result, so that it can be captured."""
    scaler, optimizer = train_state.scaler, train_state.optimizer
    measured = _gradients(forward, scaler, x, y, config, autocast, detailed)
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(train_state.model.parameters(), config.training.clip)
    finite = norm.isfinite()
    train_state.count(finite)
    if not scaler.is_enabled():
        # The fused optimizer leaves everything as it was where this is 1: no look at the value by the host.
        optimizer.found_inf = 1.0 - finite.float()  # type: ignore[attr-defined]
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return measured | ({"gradient_norm": norm} if detailed else {})


def _gradients(
    forward: Any, scaler: Any, x: Tensor, y: Tensor, config: RunConfig, autocast: Autocast, detailed: bool
) -> dict[str, Tensor]:
    """Add up the gradients of `config.accumulate` micro-batches; means of what was measured over them."""
    distributed = isinstance(forward, DistributedDataParallel)
    model = forward.module if distributed else forward
    parts = list(zip(x.chunk(config.accumulate), y.chunk(config.accumulate), strict=True))
    total: dict[str, Tensor] = {}
    for number, (part_x, part_y) in enumerate(parts, start=1):
        # Workers exchange gradients once a step, with the last micro-batch.
        with forward.no_sync() if distributed and number < len(parts) else nullcontext():
            with autocast():
                logits, energy = forward(part_x, energy=True) if detailed else (forward(part_x), None)
            measured = {"loss": functional.cross_entropy(logits.flatten(0, 1), part_y.flatten())}
            objective = measured["loss"] + penalties(model, config.training, measured, detailed)
            scaler.scale(objective / len(parts)).backward()
        if energy is not None:
            measured |= {"objective": objective, "energy": energy}
        for name, value in measured.items():
            total[name] = total.get(name, 0) + value.detach() / len(parts)
    return total


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
