"""A run is evaluated: find the model and the data, check them, score or learn, compare, write down what was found."""

import math
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
import torch

from h2q.errors import require
from h2q.model import ByteModel
from pipeline.cluster.resources import find_resources, local_resources
from pipeline.cluster.session import ray_session
from pipeline.config import PRESETS, RunConfig
from pipeline.corpus.compressors import compressors, xz_bytes
from pipeline.corpus.shards import histogram
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.prequential import Point, Rate, coded, learner, learning_rates, milestones, online
from pipeline.evaluation.progress import EvaluationProgress
from pipeline.evaluation.ray_scoring import Machine, OnProgress, Weights, score_here, score_on_ray
from pipeline.evaluation.report import Evaluation, Milestone
from pipeline.evaluation.scoring import Tally, check_alphabet, check_window
from pipeline.evaluation.windows import Stream, check_stride, plan
from pipeline.prepare.manifest import entropy
from pipeline.prepare.prepare import prepare
from pipeline.runs.checkpoint import MODEL, Checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint, model_of
from pipeline.tracking.find import find_run
from pipeline.training.precision import check_precision, setup_precision


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: a model, its config, and where it is from."""

    name: str
    model: ByteModel
    config: RunConfig
    folder: RunFolder | None = None
    checkpoint: Checkpoint | None = None
    """None: new weights."""
    path: Path | None = None
    """Of the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How it is evaluated: the options with what they leave open filled in."""

    window: int
    stride: int
    lanes: int


def evaluate(options: EvaluationConfig, meter: EvaluationProgress) -> tuple[Evaluation, RunFolder | None]:
    """Evaluate as the options say; what was found, and the folder of the run.

    Raises: UserError for whatever the user can mend, before anything is started.
    """
    meter.stage("loading the model")
    subject = find_subject(options)
    way = find_way(options, subject)
    machine = find_machine(options, subject.config)
    meter.stage("reading the data")
    data = find_data(options, subject, meter)
    counts = sum((histogram(block) for block in data.stream()), np.zeros(256, np.int64))
    check_alphabet(counts, subject.config.model.vocab, data.name)
    require(len(data) >= 2, f"{data.name} must hold at least 2 bytes to be scored, found {len(data)}: use more text")

    began, curve, learnt = time.perf_counter(), None, None
    with comparing(data, options) as references:
        if options.mode == "prequential":
            tally, points = learn(subject, data, way, options, machine, meter)
            bits, learnt = points[-1].bits, points
        else:
            tally = tally_of(subject, data, way, options, machine, meter)
            bits = tally.bits + 8
        seconds = time.perf_counter() - began
        require(math.isfinite(bits), f"{subject.name} has diverged: it gives {data.name} no finite code length")
        if learnt:
            meter.stage("compressing the same bytes")
            curve = [Milestone(p.bytes, p.bits / p.bytes, xz_bpb(data, way, p, options)) for p in milestones(learnt)]
        others = references()
    rates, positions = tally.by_position()
    order0 = entropy(counts)
    assert order0 is not None
    evaluation = Evaluation(
        subject=subject.name,
        mode=options.mode,
        data=data.name if options.data else f"{options.split} split",
        label=label_of(options, data, way),
        bytes=len(data),
        sha256=data.sha256,
        bits=bits,
        bpb=bits / len(data),
        window=way.window,
        stride=way.stride,
        lanes=way.lanes,
        step=subject.checkpoint.state["step"] if subject.checkpoint else 0,
        checkpoint=str(subject.path) if subject.path else None,
        parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        precision=machine.precision,
        device="GPU" if machine.gpu else f"CPU, {machine.threads} thread{'s' if machine.threads > 1 else ''}",
        seconds=seconds,
        bytes_per_second=len(data) / seconds,
        references={"order-0 entropy": order0} | {name: 8 * size / len(data) for name, size in others.items()},
        classes=tally.by_class(),
        position_bpb=[None if math.isnan(rate) else rate for rate in rates.tolist()],
        position_bytes=positions.tolist(),
        learning_rate=rate_of(subject, options)(sys.maxsize) if learnt else None,
        curve=curve,
        steps=[(point.bytes, point.bits) for point in learnt] if learnt else None,
    )
    return evaluation, subject.folder


def find_subject(options: EvaluationConfig) -> Subject:
    """Raises: UserError for a run that is not there, or has no checkpoint that verifies."""
    if options.preset is not None:
        return new_weights(options.preset, PRESETS[options.preset])
    require(options.run != "", "name the run to evaluate: its name or folder, latest, or best")
    folder = find_run(options.run, storage=options.storage, tracking=options.tracking)
    checkpoint, path = load_checkpoint(folder)
    model, config = model_of(checkpoint)
    if options.fresh:
        return replace(new_weights(f"{folder.name}, untrained", config), folder=folder)
    return Subject(name=folder.name, model=model, config=config, folder=folder, checkpoint=checkpoint, path=path)


def new_weights(name: str, config: RunConfig) -> Subject:
    """An untrained model of the config."""
    torch.manual_seed(config.training.seed)
    return Subject(name=name, model=ByteModel(config.model), config=config)


def find_way(options: EvaluationConfig, subject: Subject) -> Way:
    """Raises: UserError for a window longer than the model's positions, or a stride longer than the window."""
    window = options.window or subject.config.model.seq_len
    check_window(window, subject.model)
    stride = options.stride or (max(1, window // 2) if options.mode == "sliding" else window)
    check_stride(stride, window)
    lanes = 1 if options.mode == "sliding" else options.lanes or subject.config.training.lanes
    return Way(window=window, stride=stride, lanes=lanes)


def find_machine(options: EvaluationConfig, config: RunConfig) -> Machine:
    """What each process computes with. What a cluster has is known only when Ray is up.

    Raises: UserError for a GPU or a precision that this machine has not.
    """
    precision = options.precision or config.precision
    here = options.local or options.mode == "prequential"
    gpu = here and local_resources(1, options.use_gpu).gpu
    if here and not gpu:
        check_precision(precision, "cpu")
    threads = options.threads or (torch.get_num_threads() if options.mode == "prequential" else 1)
    return Machine(precision=precision, gpu=gpu, threads=threads)


def find_data(options: EvaluationConfig, subject: Subject, meter: EvaluationProgress) -> Stream:
    """The file, or the split of the corpus that the run was trained on.

    Raises: UserError if it is not there, empty, or another corpus than the run's.
    """
    if options.data is not None:
        return RawFile(options.data)
    corpus = prepare(subject.config.corpus, local=True, on_event=meter.preparing)
    was = subject.checkpoint.state.get("corpus_sha256", corpus.sha256) if subject.checkpoint else corpus.sha256
    require(
        was == corpus.sha256,
        f"the corpus of {subject.name} is another now: its sha256 was {was[:16]}, {corpus.name} has "
        f"{corpus.sha256[:16]}; give --data FILE",
    )
    return corpus.splits[options.split]


def tally_of(
    subject: Subject, data: Stream, way: Way, options: EvaluationConfig, machine: Machine, meter: EvaluationProgress
) -> Tally:
    """Every window scored, by this process or by Ray's."""
    windows = plan(len(data), window=way.window, stride=way.stride, lanes=way.lanes)
    on_progress = progress(meter, data)
    assert subject.path is not None
    weights = Weights(subject.config.model, subject.path / MODEL)
    if options.local:
        meter.stage("scoring")
        return score_here(weights, data, windows, way.window, machine, on_progress)
    meter.stage("starting Ray")
    with ray_session(verbose=options.verbose):
        workers, machine = find_workers(options, machine, len(windows))
        meter.stage(f"starting {workers} worker{'s' if workers > 1 else ''}")
        return score_on_ray(weights, data, windows, way.window, machine, workers, on_progress)


def find_workers(options: EvaluationConfig, machine: Machine, batches: int) -> tuple[int, Machine]:
    """How many workers, and what each has.

    Raises: UserError if the cluster has not so many CPUs or GPUs.
    """
    import ray

    gpu = find_resources(1, options.use_gpu).gpu
    if not gpu:
        check_precision(machine.precision, "cpu")
    total = ray.cluster_resources()
    room = int(total["GPU"]) if gpu else max(1, int(total["CPU"]) // machine.threads)
    workers = options.workers or min(room, batches)
    find_resources(workers, options.use_gpu)
    require(
        workers * machine.threads <= total["CPU"],
        f"{workers} workers of {machine.threads} threads need {workers * machine.threads} CPUs, the cluster has "
        f"{int(total['CPU'])}: use --threads {max(1, int(total['CPU']) // workers)}",
    )
    return workers, replace(machine, gpu=gpu)


def learn(
    subject: Subject, data: Stream, way: Way, options: EvaluationConfig, machine: Machine, meter: EvaluationProgress
) -> tuple[Tally, list[Point]]:
    """Once through the data, learning; the tally, and where the learner was after each step."""
    torch.set_num_threads(machine.threads)
    config = replace(subject.config, precision=machine.precision)
    device = torch.device("cuda" if machine.gpu else "cpu")
    autocast = setup_precision(machine.precision, device)
    train_state = learner(config, subject.checkpoint, device)
    meter.stage("scoring and learning")
    on_progress, points, tally = progress(meter, data), [], Tally.empty(way.window)
    for point, tally in online(
        train_state,
        data,
        config,
        autocast,
        window=way.window,
        stride=way.stride,
        lanes=way.lanes,
        rate=rate_of(subject, options),
    ):
        points.append(point)
        on_progress(tally)
    return tally, points


def rate_of(subject: Subject, options: EvaluationConfig) -> Rate:
    """The learning rate of a step."""
    return learning_rates(subject.config, subject.checkpoint, options.learning_rate)


def progress(meter: EvaluationProgress, data: Stream) -> OnProgress:
    """Shows how far a tally is."""
    return lambda tally: meter.show(tally.scored, len(data), lambda: tally.bits / tally.scored)


@contextmanager
def comparing(data: Stream, options: EvaluationConfig) -> Iterator:
    """What compressors make of the same bytes, aside, in threads; the block is given what waits for their sizes."""
    if not options.compressors:
        yield dict
        return
    left = Event()

    def blocks() -> Iterator[np.ndarray]:
        for block in data.stream():
            for start in range(0, len(block), 1 << 20):
                if left.is_set():
                    return
                yield block[start : start + (1 << 20)]

    with ThreadPoolExecutor(1) as pool:
        waiting = {name: pool.submit(compress, blocks(), len(data)) for name, compress in compressors().items()}
        try:
            yield lambda: {name: future.result() for name, future in waiting.items()}
        finally:
            left.set()  # Whoever was interrupted does not wait for xz.


def xz_bpb(data: Stream, way: Way, point: Point, options: EvaluationConfig) -> float | None:
    """Bits per byte of `xz -9e` over the bytes that are coded at a point."""
    if not options.compressors:
        return None
    return 8 * xz_bytes(coded(data, way.lanes, point.consumed), point.bytes) / point.bytes


def label_of(options: EvaluationConfig, data: Stream, way: Way) -> str:
    """What tells this evaluation of a run from others: the same again has the same label."""
    what = f"{data.name}-{data.sha256[:8]}" if options.data else options.split
    parts = [what, options.mode, f"window-{way.window}", f"stride-{way.stride}"]
    parts += [f"lanes-{way.lanes}"] if way.lanes > 1 else []
    parts += ["untrained"] if options.fresh or options.preset else []
    parts += [f"rate-{options.learning_rate:g}"] if options.learning_rate else []
    parts += [options.precision] if options.precision else []
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))
