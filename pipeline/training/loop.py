"""The training loop that every worker runs: evaluate, sample, save, step, log. Start reading at `train`."""

import math
import time
import zlib
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from h2q.errors import UserError
from h2q.growth import grow
from h2q.model import ByteModel
from pipeline.cluster.nodes import check_here
from pipeline.config import RunConfig
from pipeline.corpus.corpus import MANIFEST, Corpus, open_corpus
from pipeline.corpus.lanes import Lanes
from pipeline.corpus.prefetch import Prefetch
from pipeline.runs.checkpoint import CheckpointWriter, newest_valid
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Journal, Record
from pipeline.runs.stage import StageNote
from pipeline.runs.stop import StopSignal
from pipeline.training.clock import Clock
from pipeline.training.flops import utilisation
from pipeline.training.graph_rule import use_graph
from pipeline.training.optimizer import learning_rate, set_learning_rate
from pipeline.training.origin import first_weights
from pipeline.training.out_of_memory import ran_out, too_large
from pipeline.training.precision import Autocast, setup_precision
from pipeline.training.profile import StepProfile
from pipeline.training.samples import write_sample
from pipeline.training.step import make_step
from pipeline.training.train_state import Diverged, TrainState, mean_bits, new_train_state, scalars
from pipeline.training.validate import bits_per_byte
from pipeline.training.worker import Worker, find_worker
from pipeline.training.worker_config import WorkerConfig


def train_loop_per_worker(job: WorkerConfig) -> None:
    """Train a run to its last step; where it diverges, again from the last checkpoint with half the learning rate.

    Raises: UserError if it diverges more often than `training.rollback_limit`, or does not fit into memory.
    """
    run = job.run
    worker = find_worker(use_gpu=job.use_gpu, threads=job.threads)
    check_here(RunFolder(job.folder).config_file, job.corpus / MANIFEST)
    corpus = open_corpus(job.corpus, run.corpus)
    for rollbacks in range(run.training.rollback_limit + 1):
        try:
            return train(job, corpus, worker, rollbacks)
        except Diverged as error:
            diverged = error.with_traceback(None)  # which would keep the model in memory
        except RuntimeError as error:
            if ran_out(error):
                raise too_large(run, worker.name) from error
            raise
    raise UserError(
        f"training diverged {run.training.rollback_limit + 1} times, {diverged}: lower --training.learning-rate, or "
        "raise --training.warmup"
    )


def train(job: WorkerConfig, corpus: Corpus, worker: Worker, rollbacks: int) -> None:
    """Train from the newest valid checkpoint, or from the start, to the last step or until a stop is wanted."""
    run, folder, training = job.run, RunFolder(job.folder), job.run.training
    autocast = setup_precision(run.precision, worker.device)
    train_state = new_train_state(run, worker.device, about=job.about | worker.describe())
    restore(train_state, folder, run)
    counters = train_state.counters
    counters.rollbacks = max(counters.rollbacks, rollbacks)
    graph = use_graph(run.graph, cuda=worker.cuda, workers=worker.world_size)
    take_step = make_step(train_state, distributed(train_state.model), run, autocast, graph=graph)
    start, clock = counters.step, Clock(counters.step, counters.seconds)
    losses: list[Tensor] = []  # on the device, where they stay until a record, a checkpoint or a decision wants them
    with (
        Journal(folder.journal, first_step=start, active=worker.first) as journal,
        CheckpointWriter(folder.checkpoints, keep=training.keep, before=journal.sync, active=worker.first) as writer,
        StopSignal(folder.path, active=worker.first) as stop,
        training_batches(run, corpus, worker) as batches,
        StepProfile(folder.trace, run.profile, worker.device, active=worker.first) as profile,
    ):
        for step in range(start, training.steps + 1):
            counters.step, last, fresh = step, step == training.steps, step > start
            logging = step % training.log_every == 0
            # Several workers must agree, which costs an exchange: on GPUs, only where one is due anyway.
            stopping = (logging or worker.world_size == 1 or not worker.cuda) and worker.any(stop.wanted)

            with clock.paused():
                evaluating = fresh and (last or step % training.evaluate_every == 0)
                improved = evaluating and evaluate(train_state, corpus, worker, autocast, job, last=last)
                if fresh and (last or improved or stopping or step % training.save_every == 0):
                    train_state.note(worker.means(losses))
                    counters.seconds = clock.seconds
                    writer.write(train_state)
                    ray.train.report({"step": step, **counters.record})
            if stopping:
                break

            if not last:
                rate = learning_rate(step, training) * train_state.growth.lr_factor * 0.5**counters.rollbacks
                set_learning_rate(train_state.optimizer, rate)
                # What is drawn (dropout) is a function of seed, step and worker: a run that resumes draws the same.
                torch.manual_seed(zlib.crc32(f"{training.seed} {step} {worker.world_rank}".encode()))
                measured = take_step(*batches(step), detailed=logging)
                losses.append(measured.pop("loss"))
                profile.next()
                grow_if_stagnant(train_state, worker, losses, run)

            if last or logging:
                train_state.note(worker.means(losses))
                counters.record |= mean_bits(counters.losses)
                counters.losses = []
            if logging and not last:
                train_state.check_divergence(training.skip_limit)
                rates = {
                    "learning_rate": rate,
                    "bytes_per_second": clock.steps_per_second(step + 1) * run.bytes_per_step,
                }
                counters.record |= scalars(measured) | rates | figures(train_state, worker, rates["bytes_per_second"])
            if counters.record:
                journal.write({"step": step, "time": time.time(), **counters.record})
                counters.record = {}


def restore(train_state: TrainState, folder: RunFolder, run: RunConfig) -> None:
    """As the newest valid checkpoint has it; else the weights that the run begins with, if it is to begin with some."""
    if found := newest_valid(folder.checkpoints):
        train_state.restore(found[0])
    elif run.init_from:
        train_state.model.load_state_dict(first_weights(run).model)


def distributed(model: ByteModel) -> Any:
    """The model as Ray Train wraps it: in DistributedDataParallel where there are several workers."""
    return ray.train.torch.prepare_model(
        model,
        move_to_device=False,
        parallel_strategy_kwargs={"broadcast_buffers": False, "gradient_as_bucket_view": True},
    )


def training_batches(run: RunConfig, corpus: Corpus, worker: Worker) -> Prefetch:
    """A step's number → this worker's rows of its batch, read ahead."""
    training = run.training
    lanes = Lanes(
        corpus.train, lanes=training.lanes, seq_len=run.model.seq_len, windows=training.windows, seed=training.seed
    )
    return Prefetch(lanes, world_rank=worker.world_rank, world_size=worker.world_size, device=worker.device)


def grow_if_stagnant(train_state: TrainState, worker: Worker, losses: list[Tensor], run: RunConfig) -> None:
    """One more rank, where the rule wants it behind this step; all workers decide alike."""
    growth = train_state.growth
    if growth.decides_at(train_state.counters.step + 1):
        train_state.note(worker.means(losses))
        if growth.decide():
            grow(train_state.model, run.growth.where, seed=run.training.seed)


def evaluate(
    train_state: TrainState, corpus: Corpus, worker: Worker, autocast: Autocast, job: WorkerConfig, *, last: bool
) -> bool:
    """Bits per byte of the validation split (at the last step of the test split too) into the record, and a sample
    into the run's folder. Whether it is the best validation so far. Raises: Diverged if a split has no finite one."""
    model, counters, folder = train_state.model, train_state.counters, RunFolder(job.folder)
    began = time.perf_counter()
    with StageNote(folder.stage_file, active=worker.first) as note:
        for split in ("validation", "test") if last else ("validation",):
            data, progress = corpus.splits[split], partial(note.show, split)
            size = job.run.training.scored(len(data))
            bpb = bits_per_byte(model, data, worker, autocast, size=size, on_progress=progress)
            counters.record[f"{split}/bpb"] = bpb
            if not math.isfinite(bpb):
                raise Diverged(f"last at step {counters.step}, where {split} took {bpb} bits per byte")
    counters.record["evaluation_seconds"] = time.perf_counter() - began
    if worker.first:
        write_sample(folder.samples, counters.step, model, corpus.test)
    return counters.improves(counters.record["validation/bpb"])


def figures(train_state: TrainState, worker: Worker, bytes_per_second: float) -> Record:
    """What else a record says: rank, skipped steps, memory, use of the GPU."""
    model = train_state.model
    return {
        "growth/rank": model.rank,
        "skipped_steps": train_state.counters.skipped,
        "memory/peak_bytes": worker.peak_memory_bytes(),
        **utilisation(model.config, bytes_per_second / worker.world_size, worker.name),
    }
