"""The training loop that every worker runs: evaluate, sample, save, step, log. Start reading at `train`."""

import math
import time
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
from torch import Tensor

from h2q.errors import UserError
from h2q.growth import grow
from pipeline.cluster.nodes import check_here
from pipeline.config import RunConfig
from pipeline.corpus.corpus import MANIFEST, Corpus, open_corpus
from pipeline.corpus.lanes import Lanes
from pipeline.corpus.prefetch import Prefetch
from pipeline.runs.checkpoint import CheckpointWriter, config_of, newest_valid, remove_checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Journal, Record
from pipeline.runs.stage import StageNote
from pipeline.runs.stop import StopSignal, stop_signal
from pipeline.training.clock import Clock
from pipeline.training.flops import utilisation
from pipeline.training.graph_rule import use_graph
from pipeline.training.optimizer import set_learning_rate
from pipeline.training.origin import first_weights
from pipeline.training.out_of_memory import ran_out, too_large
from pipeline.training.precision import Autocast, setup_precision
from pipeline.training.profile import StepProfile
from pipeline.training.resets import resets_on
from pipeline.training.schedule import due_evaluations, next_leg
from pipeline.training.task import NextByte
from pipeline.training.train_state import Counters, Diverged, TrainState, new_train_state, scalars
from pipeline.training.validate import EvaluationStopped, by_kind
from pipeline.training.worker import Worker, find_worker
from pipeline.training.worker_config import WorkerConfig


def train_loop_per_worker(config: WorkerConfig) -> None:
    """Train a run to its last step; where it diverges, again from the last checkpoint with half the learning rate.

    Raises: UserError if it diverges more often than `training.rollback_limit`, or does not fit into memory.
    """
    run = config.run
    worker = find_worker(use_gpu=config.use_gpu, threads=config.threads)
    check_here(RunFolder(config.folder).config_file, config.corpus / MANIFEST)
    corpus = open_corpus(config.corpus, run.corpus)
    rollbacks = 0
    for _ in range(run.training.rollback_limit + 1):
        try:
            return train(config, corpus, worker, rollbacks)
        except Diverged as error:
            diverged = error.with_traceback(None)  # which would keep the model in memory
            rollbacks = error.rollbacks + 1
            if worker.first and error.unfit is not None:
                remove_checkpoint(RunFolder(config.folder).checkpoints, error.unfit)
        except RuntimeError as error:
            if ran_out(error):
                raise too_large(run, worker.name) from error
            raise
    raise UserError(
        f"training diverged {run.training.rollback_limit + 1} times, {diverged}: lower --training.learning-rate, or "
        "raise --training.warmup"
    )


def train(config: WorkerConfig, corpus: Corpus, worker: Worker, rollbacks: int) -> None:
    """Train from the newest valid checkpoint, or from the start, to the last step or until a stop is wanted."""
    run, folder, training, task = config.run, RunFolder(config.folder), config.run.training, config.task or NextByte()
    autocast, about = setup_precision(run.precision, worker.device), config.about | worker.describe()
    train_state = new_train_state(run, worker.device, about=about, rows=training.lanes // worker.world_size)
    counters = restore(train_state, config, corpus, worker, rollbacks)
    graph = use_graph(run.graph, cuda=worker.cuda, workers=worker.world_size)
    take_step = task.step(train_state, distributed(train_state.model), run, autocast, graph=graph)
    start, clock, resets = counters.step, Clock(counters.step, counters.seconds), resets_on(run, corpus.train, worker)
    losses: list[Tensor] = []  # on the device, where they stay until a record, a checkpoint or a decision wants them

    def save() -> None:
        train_state.gather(worker, losses)
        counters.seconds, counters.wall_seconds = clock.seconds, time.time() - config.began
        writer.write(train_state)
        ray.train.report({"step": counters.step, **counters.record})

    with (
        Journal(folder.journal, first_step=start, active=worker.first) as journal,
        CheckpointWriter(folder.checkpoints, training.keep, journal.sync, active=worker.first, read=start) as writer,
        stop_signal(folder.path) as stop,
        training_batches(run, corpus, worker) as batches,
        StepProfile(folder.trace, run.profile, worker.device, active=worker.first) as profile,
    ):
        for step in range(start, training.steps + 1):
            counters.step, last, unsaved = step, step == training.steps, step > start
            logging = step % training.log_every == 0
            # Not before there is something to save. Workers agree by an exchange: on GPUs, where one is due anyway.
            stopping = step > 0 and (logging or worker.world_size == 1 or not worker.cuda) and worker.any(stop.wanted)

            with clock.paused():
                due = [] if stopping else due_evaluations(step, training, counters.evaluated)
                if last and unsaved and due:  # which may take long
                    save()
                    unsaved = False
                news, cut_short = evaluate(train_state, due, corpus, worker, autocast, config, stop)
                stopping = stopping or cut_short
                if news or (unsaved and (last or stopping or step % training.save_every == 0)):
                    save()
            if stopping:
                break

            if not last:
                set_learning_rate(train_state.optimizer, rate := train_state.learning_rate(training))
                worker.seed(training.seed, step)
                measured = take_step(*batches(step), detailed=logging, reset=resets(step))
                losses.append(measured.pop("loss"))
                profile.next()
                grow_if_stagnant(train_state, worker, losses, run)

            if last or logging:
                train_state.note(worker.means(losses), record=True)
            if logging and not last:
                train_state.check_divergence(training.skip_limit)
                bytes_per_second = clock.steps_per_second(step + 1) * run.bytes_per_step
                counters.record |= scalars(measured) | figures(train_state, worker, rate, bytes_per_second)
            if counters.record:
                journal.write(heading(counters, clock) | counters.record)
                counters.record = {}
            counters.bytes_seen += 0 if last else run.bytes_per_step


def restore(train_state: TrainState, config: WorkerConfig, corpus: Corpus, worker: Worker, rollbacks: int) -> Counters:
    """As the newest valid checkpoint has it, on the schedule of now; else the weights that the run begins with, if it
    is to begin with some. Where the counters then stand. `rollbacks`: how often the run went back, if it just has.
    """
    run, folder = config.run, RunFolder(config.folder)
    worker.any(False)  # until all are here: the first may have been writing one
    if found := newest_valid(folder.checkpoints):
        train_state.restore(found[0], worker.world_rank)
        counters, earlier = train_state.counters, config_of(found[0].state).training
        counters.leg = next_leg(counters.step, run.training, earlier, counters.leg)
    elif config.weights is not None:
        train_state.model.load_state_dict(first_weights(run, config.weights).model)
    else:
        (config.task or NextByte()).begin(train_state, corpus)
    train_state.counters.rollbacks = max(train_state.counters.rollbacks, rollbacks)
    return train_state.counters


def distributed(model: Any) -> Any:
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
        corpus.train,
        lanes=training.lanes,
        seq_len=run.chunk,
        windows=training.windows,
        seed=training.seed,
        ahead=run.ahead,
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
    train_state: TrainState,
    due: list[str],
    corpus: Corpus,
    worker: Worker,
    autocast: Autocast,
    config: WorkerConfig,
    stop: StopSignal,
) -> tuple[bool, bool]:
    """What is due: bits per byte of splits into the record, a sample into the run's folder.

    Whether a checkpoint must hold it (the best validation so far, or the test), and whether a stop left some of it due.
    Raises: Diverged if a split has no finite one.
    """
    model, counters, folder, run = train_state.model, train_state.counters, RunFolder(config.folder), config.run
    task = config.task or NextByte()
    news, began = False, time.perf_counter()
    splits = [name for name in due if name in corpus.splits]
    try:
        with StageNote(folder.stage_file, active=worker.first) as note:
            for split in splits:
                data, progress = corpus.splits[split], partial(note.show, split)
                size, stopped = run.training.scored(len(data)), stop.is_wanted
                score = partial(task.score, model, worker=worker, autocast=autocast, stopped=stopped)
                found = by_kind(score, data, size, progress)
                counters.record |= {f"{split}/{name}": bits for name, bits in found.items()}
                bpb = found["bpb"]
                if not math.isfinite(bpb):
                    where = f"last at step {counters.step}, where {split} took {bpb} bits per byte"
                    raise Diverged(where, counters.rollbacks, unfit=counters.step)
                if run.carries and counters.step == run.training.steps:  # what the state is worth
                    reset = by_kind(partial(score, carry=False), data, size, progress)
                    counters.record |= {f"{split}/{name}_reset": bits for name, bits in reset.items()}
                counters.evaluated[split] = counters.step
                news |= counters.improves(bpb) if split == "validation" else True
    except EvaluationStopped:
        return news, True
    if splits:
        counters.record["evaluation_seconds"] = time.perf_counter() - began
    if "sample" in due:
        to, step = folder.samples, counters.step
        if worker.any(worker.first and not task.sample(to, step, model, corpus.test, run, stop.is_wanted)):
            return news, True
        counters.evaluated["sample"] = step
    return news, False


def heading(counters: Counters, clock: Clock) -> Record:
    """What every record begins with."""
    return {"step": counters.step, "time": time.time(), "bytes_seen": counters.bytes_seen, "seconds": clock.seconds}


def figures(train_state: TrainState, worker: Worker, rate: float, bytes_per_second: float) -> Record:
    """What else a record says: rates, rank, skipped steps, memory, use of the GPU."""
    model = train_state.model
    return {
        "learning_rate": rate,
        "bytes_per_second": bytes_per_second,
        "growth/rank": model.rank,
        "skipped_steps": train_state.counters.skipped,
        "memory/peak_bytes": worker.peak_memory_bytes(),
        **utilisation(model.config, bytes_per_second / worker.world_size, worker.name),
    }
