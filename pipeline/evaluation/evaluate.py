"""An evaluation from its options to its result: set up, score or learn, compare with compressors."""

import math
import sys
import time
from dataclasses import dataclass, replace

import torch

from h2q.errors import require
from pipeline.cluster.session import ray_session
from pipeline.corpus.side_by_side import stretches
from pipeline.evaluation.carried import cold_start_bits
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.kinds import code_of
from pipeline.evaluation.learner import Learner
from pipeline.evaluation.machine import Machine, find_workers
from pipeline.evaluation.prequential import Point, online
from pipeline.evaluation.progress import EvaluationProgress
from pipeline.evaluation.ray_scoring import Plan, Weights, score_here, score_on_ray
from pipeline.evaluation.references import compressing, learning_curve
from pipeline.evaluation.report import Evaluation, Milestone
from pipeline.evaluation.scoring import Tally
from pipeline.evaluation.setup import Setup, set_up
from pipeline.evaluation.windows import Stream, plan
from pipeline.prepare.manifest import entropy
from pipeline.runs.checkpoint import MODEL
from pipeline.runs.folder import RunFolder
from pipeline.training.precision import setup_precision


@dataclass(frozen=True, kw_only=True)
class CodeLength:
    """What the model needs for the data."""

    bits: float
    """With 8 bits for the first byte, which nothing predicts (prequential: of every lane; of marked data: 8.02 for the
    first symbol of every kind)."""
    tally: Tally
    machine: Machine
    """What each process computed with."""
    seconds: float
    """Of scoring, the start of workers included."""
    kind_bits: list[float] | None = None
    """Of marked data that is not learned from: the same for each kind."""
    cold_bits: float = 0.0
    """Of `bits`, what it cost that lanes start without the state of the one before."""
    points: list[Point] | None = None
    """Prequential: where the learner was after each step."""
    curve: list[Milestone] | None = None
    """Prequential: the same at a dozen points, beside a compressor."""


def evaluate(options: EvaluationConfig, folder: RunFolder | None, progress: EvaluationProgress) -> Evaluation:
    """Evaluate the run in the folder that `named_run` found as the options say.

    Raises: UserError for whatever the user can mend, before anything is started.
    """
    setup = set_up(options, folder, progress)
    learns = setup.options.mode == "prequential"
    with compressing(setup.data, [] if learns else setup.kinds, wanted=options.compressors) as sizes:
        code = learn(setup, progress) if learns else score(setup, progress)
        require(
            math.isfinite(code.bits),
            f"{setup.subject.name} has diverged: it gives {setup.data.name} no finite code length",
        )
        if code.points:
            progress.stage("compressing the same bytes")
            lanes = setup.windowing.lanes
            curve = learning_curve(code.points, setup.data, lanes, compressed=options.compressors)
            code = replace(code, curve=curve)
        compressed, by_kind = sizes()
    return result(setup, code, compressed, by_kind)


def score(setup: Setup, progress: EvaluationProgress) -> CodeLength:
    """Score every window, or every lane through which a state is carried, by this process or by Ray's; of marked data
    each kind is a stream of its own."""
    began = time.perf_counter()
    windowing, options, machine, path = setup.windowing, setup.options, setup.machine, setup.subject.path
    streams = setup.streams
    plans = [plan_of(setup, stream) for stream in streams]
    assert path is not None
    scored = Weights(setup.subject.config.model, path / MODEL), streams, plans, windowing.window
    on_progress, total = progress.through(len(setup.data)), Tally.empty(windowing.window)
    if options.here:
        progress.stage("scoring")
        tallies = score_here(*scored, machine, on_progress)
    else:
        progress.stage("starting Ray")
        with ray_session(verbose=options.verbose):
            workers, machine = find_workers(options, machine, sum(map(len, plans)))
            progress.stage(f"starting {workers} worker{'s' if workers > 1 else ''}")
            tallies = score_on_ray(*scored, machine, workers, on_progress)
    for tally in tallies:
        total.add(tally.table)
    seconds = time.perf_counter() - began
    # What nothing predicts is charged the bits of a uniform guess.
    bits = [tally.bits + math.log2(stream.alphabet) for tally, stream in zip(tallies, streams, strict=True)]
    return CodeLength(
        bits=sum(bits),
        tally=total,
        machine=machine,
        kind_bits=bits if setup.kinds else None,
        cold_bits=cold_starts(setup, streams, machine, progress),
        seconds=seconds,
    )


def plan_of(setup: Setup, data: Stream) -> Plan:
    """How a stream is scored: in lanes through which a state is carried, or in windows."""
    windowing = setup.windowing
    if setup.options.mode == "carried":
        return stretches(len(data), windowing.lanes)
    return plan(len(data), window=windowing.window, stride=windowing.stride, lanes=windowing.lanes)


def cold_starts(setup: Setup, streams: list[Stream], machine: Machine, progress: EvaluationProgress) -> float:
    """Bits that it cost that lanes begin without the state of the one before."""
    lanes = setup.windowing.lanes
    if setup.options.mode != "carried" or lanes == 1:
        return 0.0
    progress.stage("measuring what cold starts cost")
    if machine.gpu and not setup.options.here:
        # There may be no GPU here, and a CPU has not every precision of one.
        machine = replace(machine, gpu=False, precision="fp32")
    autocast = setup_precision(machine.precision, machine.device)
    torch.set_num_threads(machine.threads)
    model = setup.subject.model.to(machine.device).eval()
    return sum(cold_start_bits(model, data, stretches(len(data), lanes), autocast) for data in streams)


def learn(setup: Setup, progress: EvaluationProgress) -> CodeLength:
    """Go once through the data, learning."""
    began = time.perf_counter()
    machine, windowing, subject = setup.machine, setup.windowing, setup.subject
    torch.set_num_threads(machine.threads)
    config = replace(subject.config, precision=machine.precision)
    autocast = setup_precision(machine.precision, machine.device)
    learner = Learner(
        config,
        subject.checkpoint,
        machine.device,
        autocast,
        lanes=windowing.lanes,
        rate=setup.rate,
        updates=setup.updates,
    )
    progress.stage("scoring and learning")
    on_progress, points, tally = progress.through(len(setup.data)), [], Tally.empty(windowing.window)
    steps = online(
        learner,
        setup.data,
        autocast,
        window=windowing.window,
        stride=windowing.stride,
        lanes=windowing.lanes,
    )
    for point, tally in steps:
        points.append(point)
        on_progress(tally)
    seconds = time.perf_counter() - began
    return CodeLength(bits=points[-1].bits, tally=tally, machine=machine, seconds=seconds, points=points)


def result(setup: Setup, code: CodeLength, compressed: dict[str, int], by_kind: list[dict[str, int]]) -> Evaluation:
    """The result as it is shown and written down. `compressed`: bytes that each compressor needs; `by_kind`: and for
    each kind."""
    size, subject = len(setup.data), setup.subject
    only_text = {subject.config.corpus.kind, *(of.kind for of in setup.kinds)} == {"text"}
    kinds = zip(setup.kinds, code.kind_bits or [], by_kind, strict=code.kind_bits is not None)
    rates, positions = code.tally.by_position()
    order0 = entropy(setup.byte_counts)
    assert order0 is not None
    return Evaluation(
        subject=subject.name,
        mode=str(setup.options.mode),
        data=setup.data.name if setup.options.data else f"{setup.options.split} split",
        label=setup.label,
        bytes=size,
        sha256=setup.data.sha256,
        bits=code.bits,
        bpb=code.bits / size,
        window=setup.windowing.window,
        stride=setup.windowing.stride,
        lanes=setup.windowing.lanes,
        cold_start_bpb=code.cold_bits / size,
        step=subject.step,
        checkpoint=str(subject.path) if subject.path else None,
        parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        precision=code.machine.precision,
        device=str(code.machine),
        seconds=code.seconds,
        bytes_per_second=size / code.seconds,
        references={"order-0 entropy": order0} | {name: 8 * needed / size for name, needed in compressed.items()},
        classes=code.tally.by_class("text" if only_text else "bytes"),
        position_bpb=[None if math.isnan(rate) else rate for rate in rates.tolist()],
        position_bytes=positions.tolist(),
        learning_rate=setup.rate(sys.maxsize) if code.points else None,
        updates=setup.updates if code.points else None,
        curve=code.curve,
        kinds=[code_of(*one) for one in kinds] or None,
        steps=[(point.bytes, point.bits) for point in code.points] if code.points else None,
    )
