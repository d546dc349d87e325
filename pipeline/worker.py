"""The training loop that every worker runs: evaluate, sample, save, step, log. Start reading here."""

import math
import time
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from h2q.axioms import independence, orthogonality
from h2q.growth import RankGrowth, easing, grow
from h2q.model import ByteModel
from pipeline.checkpoint import CheckpointWriter, newest_valid
from pipeline.config import RunConfig
from pipeline.evaluate import bits_per_byte
from pipeline.journal import Journal
from pipeline.lanes import Lanes
from pipeline.optimizer import build_optimizer, learning_rate, set_learning_rate
from pipeline.place import Place, find_place
from pipeline.precision import Autocast, setup_precision
from pipeline.prefetch import Prefetch
from pipeline.prepare import open_corpus
from pipeline.samples import write_sample
from pipeline.state import Trainee
from pipeline.stopwatch import Stopwatch


def train_loop_per_worker(order: dict[str, Any]) -> None:
    """Train a run from its newest valid checkpoint, or from the start, to its last step.

    `order` holds `config` (RunConfig), `folder` (of the run), `corpus` (folder of the prepared corpus), `use_gpu`,
    `threads` (of the CPU, or None) and `about` (what every checkpoint says of its origin).
    """
    config: RunConfig = order["config"]
    training, folder = config.training, Path(order["folder"])
    place = find_place(use_gpu=order["use_gpu"], threads=order["threads"])
    autocast = setup_precision(config.precision, place.device)
    corpus = open_corpus(order["corpus"])
    lanes = Lanes(
        corpus.train, lanes=training.lanes, seq_len=config.model.seq_len, windows=training.windows, seed=training.seed
    )

    torch.manual_seed(training.seed)
    model = ByteModel(config.model).to(place.device)
    optimizer = build_optimizer(model, training)
    scaler = torch.amp.GradScaler(place.device.type, enabled=config.precision == "fp16")  # type: ignore[attr-defined]
    growth = RankGrowth(config.growth, room=config.model.storage_rank - config.model.fixed_rank)
    trainee = Trainee(model, optimizer, scaler, growth, about=order["about"] | place.describe())
    if found := newest_valid(folder / "checkpoints"):
        trainee.restore(found[0])
    forward = ray.train.torch.prepare_model(model, move_to_device=False)

    state, start = trainee.state, trainee.state.step
    clock = Stopwatch(start, state.seconds)
    losses: list[Tensor] = []  # on the device, where they stay until a record or a checkpoint wants them
    with (
        Journal(folder / "metrics.jsonl", first_step=start, active=place.first) as journal,
        CheckpointWriter(folder / "checkpoints", keep=training.keep, active=place.first) as writer,
        Prefetch(lanes, world_rank=place.rank, world_size=place.size, device=place.device) as batches,
    ):
        for step in range(start, training.steps + 1):
            state.step, last = step, step == training.steps

            with clock.paused():
                improved = False
                if step > start and (last or step % training.evaluate_every == 0):
                    for split in ("validation", "test") if last else ("validation",):
                        state.record[f"{split}/bpb"] = bits_per_byte(model, corpus.splits[split], place, autocast)
                    improved = state.improves(state.record["validation/bpb"])
                    if place.first:
                        write_sample(folder / "samples", step, model, corpus.test)
                if step > start and (last or improved or step % training.save_every == 0):
                    trainee.note(to_host(losses, place))
                    state.seconds = clock.seconds
                    journal.sync()
                    writer.write(trainee)
                    ray.train.report({"step": step, **state.record})

            logging = not last and step % training.log_every == 0
            if not last:
                rate = learning_rate(step, training) * growth.lr_factor
                set_learning_rate(optimizer, rate)
                # What is drawn (dropout) is a function of seed, step and rank: a run that resumes draws the same.
                torch.manual_seed(zlib.crc32(f"{training.seed} {step} {place.rank}".encode()))
                x, y = batches(step)
                measured = backward(forward, scaler, x, y, config, autocast, energy=logging)
                losses.append(measured.pop("loss"))
                scaler.unscale_(optimizer)
                gradient_norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip)
                with easing(model, growth):
                    scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if growth.decides_at(step + 1):
                    trainee.note(to_host(losses, place))
                    if growth.decide():
                        grow(model, config.growth.where, seed=training.seed)

            if last or logging:
                trainee.note(to_host(losses, place))
                if state.losses:
                    state.record["train/bpb"] = sum(state.losses) / len(state.losses) / math.log(2)
                state.losses = []
            if logging:
                state.record |= {
                    **scalars(measured),
                    "gradient_norm": gradient_norm.item(),
                    "learning_rate": rate,
                    "growth/rank": model.rank,
                    "bytes_per_second": clock.steps_per_second(step + 1) * training.lanes * config.model.seq_len,
                    "memory/peak_bytes": place.peak_memory_bytes(),
                }
            if state.record:
                journal.write({"step": step, "time": time.time(), **state.record})
                state.record = {}


def backward(
    forward: Any, scaler: Any, x: Tensor, y: Tensor, config: RunConfig, autocast: Autocast, *, energy: bool
) -> dict[str, Tensor]:
    """Gradients of the objective for this worker's rows x, y (B, T), in `config.accumulate` micro-batches.

    `forward` is the model, or DistributedDataParallel around it. Returns means over the micro-batches, detached, on
    the device: `loss` (cross-entropy in nats per byte), `objective`, `axiom`, `independence`; with `energy` also that,
    (depth,).
    """
    distributed = isinstance(forward, DistributedDataParallel)
    model = forward.module if distributed else forward
    total: dict[str, Tensor] = {}
    parts = list(zip(x.chunk(config.accumulate), y.chunk(config.accumulate), strict=True))
    for number, (part_x, part_y) in enumerate(parts, start=1):
        # Workers exchange gradients once a step, with the last micro-batch.
        with forward.no_sync() if distributed and number < len(parts) else nullcontext():
            with autocast():
                logits, energies = forward(part_x, energy=True) if energy else (forward(part_x), None)
            loss = functional.cross_entropy(logits.flatten(0, 1), part_y.flatten())
            penalties = {"axiom": orthogonality(model), "independence": independence(model)}
            objective = loss + 0.01 * (
                config.training.axiom_lambda * penalties["axiom"]
                + config.training.independence_lambda * penalties["independence"]
            )
            scaler.scale(objective / len(parts)).backward()
        measured = {"loss": loss, "objective": objective, **penalties}
        if energies is not None:
            measured["energy"] = energies
        for name, value in measured.items():
            total[name] = total.get(name, 0) + value.detach() / len(parts)
    return total


def to_host(values: list[Tensor], place: Place) -> list[float]:
    """Means over all workers of scalars on the device, as floats; the list is emptied."""
    if not values:
        return []
    means = place.mean(torch.stack(values)).tolist()
    values.clear()
    return means


def scalars(measured: dict[str, Tensor]) -> dict[str, float]:
    """Numbers by the names of metrics; a vector over blocks gives one for each."""
    named = {}
    for name, value in measured.items():
        if value.ndim == 0:
            named[name] = value.item()
        else:
            named |= {f"{name}/block_{block:02d}": number for block, number in enumerate(value.tolist())}
    return named
