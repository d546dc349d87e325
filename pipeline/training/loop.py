"""The training loop that every worker runs: evaluate, sample, save, step, log. Start reading here."""

import time
import zlib
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from h2q.errors import UserError
from h2q.growth import RankGrowth, grow
from h2q.model import ByteModel
from pipeline.cluster.nodes import check_here
from pipeline.config import RunConfig
from pipeline.corpus.corpus import MANIFEST, Corpus, open_corpus
from pipeline.corpus.lanes import Lanes
from pipeline.corpus.prefetch import Prefetch
from pipeline.runs.checkpoint import CheckpointWriter, newest_valid
from pipeline.runs.journal import Journal
from pipeline.runs.stop import StopWatch
from pipeline.storage.path import text_of
from pipeline.training.clock import Stopwatch
from pipeline.training.flops import utilisation
from pipeline.training.graph_rule import use_graph
from pipeline.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from pipeline.training.out_of_memory import ran_out, too_large
from pipeline.training.precision import Autocast, setup_precision
from pipeline.training.profile import StepProfile
from pipeline.training.samples import write_sample
from pipeline.training.step import make_step
from pipeline.training.train_state import Diverged, Trainee, mean_bits, scalars
from pipeline.training.validate import bits_per_byte
from pipeline.training.worker import Place, find_place


def train_loop_per_worker(order: dict[str, Any]) -> None:
    """Train a run to its last step; where it diverges, again from the last checkpoint with half the learning rate.

    `order` holds `config` (RunConfig), `folder` (of the run), `corpus` (folder of the prepared corpus; both as `locate`
    gives them), `use_gpu`, `threads` (of the CPU, or None) and `about` (what every checkpoint says of its origin).
    Raises: UserError if it diverges more often than `training.rollback_limit`, or does not fit into memory.
    """
    config: RunConfig = order["config"]
    place = find_place(use_gpu=order["use_gpu"], threads=order["threads"])
    autocast = setup_precision(config.precision, place.device)
    check_here(order["folder"], order["corpus"] / MANIFEST)
    corpus = open_corpus(text_of(order["corpus"]), config.corpus)
    for rollbacks in range(config.training.rollback_limit + 1):
        try:
            return train(config, order["folder"], corpus, place, autocast, order["about"], rollbacks)
        except Diverged as error:
            diverged = error.with_traceback(None)  # which would keep the model in memory
        except RuntimeError as error:
            if ran_out(error):
                raise too_large(config, place.name) from error
            raise
    raise UserError(
        f"training diverged {config.training.rollback_limit + 1} times, {diverged}: lower --training.learning-rate, or "
        "raise --training.warmup"
    )


def train(
    config: RunConfig, folder: Path, corpus: Corpus, place: Place, autocast: Autocast, about: dict, rollbacks: int
) -> None:
    """Train from the newest valid checkpoint, or from the start, to the last step or until a stop is wanted."""
    training, growing = config.training, config.growth
    torch.manual_seed(training.seed)
    model = ByteModel(config.model).to(place.device)
    optimizer = build_optimizer(model, training)
    scaler = torch.amp.GradScaler(place.device.type, enabled=config.precision == "fp16")  # type: ignore[attr-defined]
    growth = RankGrowth(growing, room=config.model.storage_rank - config.model.fixed_rank)
    trainee = Trainee(model, optimizer, scaler, growth, about=about | place.describe())
    if found := newest_valid(folder / "checkpoints"):
        trainee.restore(found[0])
    forward = ray.train.torch.prepare_model(
        model,
        move_to_device=False,
        parallel_strategy_kwargs={"broadcast_buffers": False, "gradient_as_bucket_view": True},
    )
    graph = use_graph(config.graph, cuda=place.cuda, workers=place.size)
    optimizer_step = make_step(trainee, forward, config, autocast, graph=graph)

    state, start = trainee.state, trainee.state.step
    state.rollbacks = max(state.rollbacks, rollbacks)
    clock = Stopwatch(start, state.seconds)
    losses: list[Tensor] = []  # on the device, where they stay until a record, a checkpoint or a decision wants them
    lanes = Lanes(
        corpus.train, lanes=training.lanes, seq_len=config.model.seq_len, windows=training.windows, seed=training.seed
    )
    with (
        Journal(folder / "metrics.jsonl", first_step=start, active=place.first) as journal,
        CheckpointWriter(folder / "checkpoints", keep=training.keep, before=journal.sync, active=place.first) as writer,
        StopWatch(folder, active=place.first) as stop,
        Prefetch(lanes, world_rank=place.rank, world_size=place.size, device=place.device) as batches,
        StepProfile(folder / "profile", config.profile, place.device, active=place.first) as profile,
    ):
        for step in range(start, training.steps + 1):
            state.step, last, fresh = step, step == training.steps, step > start
            logging = step % training.log_every == 0
            # Several workers must agree, which costs an exchange: on GPUs, only where one is due anyway.
            stopping = (logging or place.size == 1 or not place.cuda) and place.any(stop.wanted)

            with clock.paused():
                improved = False
                if fresh and (last or step % training.evaluate_every == 0):
                    for split in ("validation", "test") if last else ("validation",):
                        state.record[f"{split}/bpb"] = bits_per_byte(model, corpus.splits[split], place, autocast)
                    improved = state.improves(state.record["validation/bpb"])
                    if place.first:
                        write_sample(folder / "samples", step, model, corpus.test)
                if fresh and (last or improved or stopping or step % training.save_every == 0):
                    trainee.note(place.means(losses))
                    state.seconds = clock.seconds
                    writer.write(trainee)
                    ray.train.report({"step": step, **state.record})
            if stopping:
                break

            if not last:
                rate = learning_rate(step, training) * growth.lr_factor * 0.5**state.rollbacks
                set_learning_rate(optimizer, rate)
                # What is drawn (dropout) is a function of seed, step and rank: a run that resumes draws the same.
                torch.manual_seed(zlib.crc32(f"{training.seed} {step} {place.rank}".encode()))
                x, y = batches(step)
                measured = optimizer_step(x, y, detailed=logging)
                losses.append(measured.pop("loss"))
                profile.next()
                if growth.decides_at(step + 1):
                    trainee.note(place.means(losses))
                    if growth.decide():
                        grow(model, growing.where, seed=training.seed)

            if last or logging:
                trainee.note(place.means(losses))
                state.record |= mean_bits(state.losses)
                state.losses = []
            if logging and not last:
                trainee.check_divergence(training.skip_limit)
                speed = clock.steps_per_second(step + 1) * training.lanes * config.model.seq_len
                state.record |= scalars(measured) | {
                    "learning_rate": rate,
                    "growth/rank": model.rank,
                    "skipped_steps": state.skipped,
                    "bytes_per_second": speed,
                    "memory/peak_bytes": place.peak_memory_bytes(),
                    **utilisation(config.model, speed / place.size, place.name),
                }
            if state.record:
                journal.write({"step": step, "time": time.time(), **state.record})
                state.record = {}
