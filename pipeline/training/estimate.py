"""What a run will need, before it is started: memory of a worker, size of a checkpoint, time of a step and of the run.

A few steps of the real model are taken with few rows of the batch, on this machine's device, and what depends on the
number of rows is continued as a straight line to the number that the run will have.
"""

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from h2q.errors import UserError
from pipeline.cluster.resources import local_resources
from pipeline.config import RunConfig
from pipeline.storage.store_address import sqlite_file
from pipeline.terminal import human_bytes, human_seconds
from pipeline.tracking.uri import tracking_uri
from pipeline.training.graph_rule import use_graph
from pipeline.training.peak import peak_bytes
from pipeline.training.precision import setup_precision
from pipeline.training.schedule import scored_after
from pipeline.training.step import make_step
from pipeline.training.train_state import TrainState, new_train_state
from pipeline.training.validate import batch_rows

ENOUGH_SECONDS = 2.0
"""A step that takes so long is not measured with more rows."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes and seconds of one worker."""

    device: str
    cuda: bool
    """Whether that is a GPU, whose memory counts then."""
    parameters: int
    parameter_bytes: int
    """Gradients take the same again."""
    optimizer_bytes: int
    activation_bytes: int
    """Most that a micro-batch, or a batch of an evaluation, holds at a time beyond the above."""
    library_bytes: int
    """Python and its libraries, resident; on a GPU the workspaces of its libraries there."""
    checkpoint_bytes: int
    step_seconds: float
    evaluation_seconds: float
    """Of a million bytes of text, by all workers."""
    measured_rows: int
    """Rows of the micro-batch up to which time was measured."""

    @property
    def worker_bytes(self) -> int:
        """What a worker will hold at most."""
        return self.library_bytes + 2 * self.parameter_bytes + self.optimizer_bytes + self.activation_bytes


def estimate(config: RunConfig) -> Estimate:
    """Measure a few small steps of the run on the device that a worker of this machine would get.

    Raises: UserError if the device cannot do the precision, or not even a few rows fit into its memory.
    """
    _load_libraries(config)
    cuda = local_resources(config.use_gpu).gpu
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_num_threads(config.threads or max(1, torch.get_num_threads() // config.workers))
    libraries = psutil.Process().memory_info().rss
    train_state = new_train_state(config, device)
    try:
        measured = _measure(config, train_state, device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"not even a few rows of {config.chunk} bytes fit into the memory of {device}: use a smaller "
            "--model.dim or --model.depth, or --model.memory reversible"
        ) from error
    parameters = _bytes(train_state.model.parameters())
    moments = _bytes(tensor for state in train_state.optimizer.state.values() for tensor in state.values())
    if cuda:
        gc.collect()  # the steps that were captured, with their graphs
        libraries = max(0, torch.cuda.memory_allocated() - parameters - moments)
    return Estimate(
        cuda=cuda,
        device=torch.cuda.get_device_name() if cuda else f"CPU ({torch.get_num_threads()} threads)",
        parameters=sum(parameter.numel() for parameter in train_state.model.parameters()),
        parameter_bytes=parameters,
        optimizer_bytes=moments,
        library_bytes=libraries,
        checkpoint_bytes=parameters + moments,
        **measured,
    )


def _load_libraries(config: RunConfig) -> None:
    """Load what a worker loads, since it belongs to its memory."""
    import pipeline.training.loop  # noqa: F401

    if config.local and config.tracking.enabled:  # one process then tracks and draws as well
        import matplotlib.figure  # noqa: F401
        import mlflow.tracking

        if sqlite_file(tracking_uri(config.tracking)):
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def _measure(config: RunConfig, train_state: TrainState, device: torch.device) -> dict[str, Any]:
    """What steps and evaluations take, as fields of an Estimate."""
    model, length, whole = train_state.model, config.model.seq_len, replace(config, accumulate=1)
    autocast = setup_precision(config.precision, device)
    graph = use_graph(config.graph, cuda=device.type == "cuda", workers=config.workers)

    def training(rows: int, graph: bool = False) -> Callable[[], object]:
        x, y = (torch.randint(config.model.vocab, (rows, config.chunk), device=device) for _ in range(2))
        step = make_step(train_state, model, whole, autocast, graph=graph)
        return lambda: step(x, y, detailed=False)

    def scoring(rows: int) -> Callable[[], object]:
        x = torch.randint(config.model.vocab, (rows, length), device=device)

        @torch.no_grad()
        def score() -> None:
            with autocast():
                # As `bits_per_byte` does: the logits once more, as log-probabilities.
                nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten(), reduction="sum")

        return score

    rows, windows = config.training.lanes // (config.workers * config.accumulate), batch_rows(device.type, length)
    step, measured_rows = _time(partial(training, graph=graph), rows, device)
    # Within a graph it takes next to nothing.
    update = 0.0 if graph else _seconds(lambda: _update(train_state, config), device)
    evaluation, _ = _time(scoring, windows, device)
    return {
        "activation_bytes": max(_peak(training, rows, device), _peak(scoring, windows, device)),
        "step_seconds": config.accumulate * max(step - update, 0.0) + update,
        "evaluation_seconds": 1e6 / (windows * length) * evaluation / config.workers,
        "measured_rows": measured_rows,
    }


def _time(work: Callable[[int], Callable[[], object]], rows: int, device: torch.device) -> tuple[float, int]:
    """Seconds with so many rows, and the number of rows up to which that was measured."""
    points: list[tuple[int, float]] = []
    for part in (8, 4, 2, 1):
        some = max(1, rows // part)
        if not points or some > points[-1][0]:
            points.append((some, _seconds(work(some), device)))
        if len(points) > 1 and points[-1][1] > ENOUGH_SECONDS:
            break
    return _line(points[-2:], rows), points[-1][0]


def _peak(work: Callable[[int], Callable[[], object]], rows: int, device: torch.device) -> int:
    """Bytes with so many rows: measured on a GPU, which counts them on the way; else, or where they are too many, from
    the peaks with few."""
    if device.type == "cuda":
        with suppress(torch.OutOfMemoryError):
            return peak_bytes(work(rows), device)
    points = [(some, float(peak_bytes(work(some), device))) for some in (2, 4) if some <= rows] or [
        (1, float(peak_bytes(work(1), device)))
    ]
    return round(_line(points, rows))


def _line(points: list[tuple[int, float]], x: int) -> float:
    """The straight line through the last two points, at x; through the origin if there is one."""
    (a, at_a), (b, at_b) = points if len(points) == 2 else ((0, 0.0), points[0])
    return at_b + (x - b) * (at_b - at_a) / (b - a)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Median of three calls behind an untimed one, fewer if they take long."""
    work()
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < ENOUGH_SECONDS:
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def _update(train_state: TrainState, config: RunConfig) -> None:
    """What comes once a step: clipping and the optimizer, on gradients of zero."""
    for parameter in train_state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    nn.utils.clip_grad_norm_(train_state.model.parameters(), config.training.clip)
    train_state.optimizer.step()
    train_state.optimizer.zero_grad()


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def run_seconds(found: Estimate, config: RunConfig, sizes: dict[str, int] | None) -> tuple[float, float]:
    """Seconds of all steps, and of all evaluations, of splits with so many bytes; where that is not known, of so many
    as they are limited to, if they are (else none)."""
    sizes = sizes or dict.fromkeys(("validation", "test"), config.training.evaluate_bytes or 0)
    scored = scored_after(0, config, validation=sizes["validation"], test=sizes["test"])
    return config.training.steps * found.step_seconds, scored / 1e6 * found.evaluation_seconds


def show(found: Estimate, config: RunConfig, console: Console, sizes: dict[str, int] | None) -> None:
    """As a table, with what to do where it does not fit. `sizes`: bytes of the splits, None if they are not known."""
    rows = config.training.lanes // (config.workers * config.accumulate)
    model, bits = config.model, [f"{human_bytes(found.parameter_bytes)} of parameters, the same of gradients"]
    bits.append(f"{human_bytes(found.optimizer_bytes)} of optimizer state")
    bits.append(f"{human_bytes(found.activation_bytes)} of activations ({rows} × {config.chunk} bytes at a time)")
    if found.library_bytes:
        bits.append(f"{human_bytes(found.library_bytes)} of libraries")
    there = _available(found)
    needed = found.worker_bytes * (1 if found.cuda else config.workers)
    workers = f", {config.workers} workers" if config.workers > 1 else ""
    steps, (training, evaluating) = config.training.steps, run_seconds(found, config, sizes)
    aside = f"{human_seconds(evaluating)} of it evaluations; the start aside"
    if not evaluating:
        aside = "evaluations and start aside: how much there is to score, python jobs/prepare.py finds out"
    rate = config.bytes_per_step / found.step_seconds
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (
        ("model", f"{found.parameters:,} parameters"),
        ("memory", f"{human_bytes(found.worker_bytes)} a worker{workers}; there are {human_bytes(there)}"),
        ("", ", ".join(bits)),
        ("checkpoint", human_bytes(found.checkpoint_bytes)),
        ("step", f"{found.step_seconds:.3g} s, {human_bytes(rate)}/s, on {found.device}, {config.precision}"),
        ("run", f"{human_seconds(training + evaluating)} for {steps:,} steps, {aside}"),
        (
            "evaluation",
            f"{found.evaluation_seconds:.3g} s for each MB of text, every {config.training.evaluate_every:,}",
        ),
    ):
        table.add_row(name, value)
    console.print(table, highlight=False)
    if found.measured_rows < rows:
        console.print(f"time was measured up to {found.measured_rows} rows, and continued to {rows}", highlight=False)
    if needed > there:
        console.print(
            "this will not fit: raise --accumulate, or use --model.memory reversible"
            if model.halves
            else "this will not fit: raise --accumulate",
            highlight=False,
        )


def _available(found: Estimate) -> int:
    """Memory that a run could have here."""
    return torch.cuda.mem_get_info()[0] if found.cuda else psutil.virtual_memory().available
