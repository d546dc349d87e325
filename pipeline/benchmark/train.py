"""Training, measured: how soon it starts and ends, what the loop costs beside its steps, what a second worker gains."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from h2q.config import ModelConfig
from h2q.errors import require
from pipeline.benchmark.timing import wait
from pipeline.cluster.session import ray_session
from pipeline.config import PRESETS, CorpusConfig, RunConfig, TrackingConfig, TrainingConfig
from pipeline.prepare.prepare import prepare
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import read_journal
from pipeline.storage.store_address import sqlite_address
from pipeline.training.driver import train
from pipeline.training.step import optimizer_step
from pipeline.training.train_state import new_train_state

STEPS_PER_LAP = 10
"""Steps between two records of the loop, whose times are compared."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time to the first step and from the last one, overhead of the loop, gain of a second worker."""

    starts: int = 3
    """Fresh processes for each of Ray and local mode; figures are medians. 0: none."""
    rounds: int = 3
    """Turns of the loop and of its bare steps. 0: none."""
    model: ModelConfig = PRESETS["laptop"].model
    """The model of those turns; that of preset `laptop` by default."""
    laps: int = 4
    """Laps of 10 steps to a turn, beside a first one that does not count."""
    pairs: int = 2
    """Turns of one worker and of two. 0: none."""
    pair_steps: int = 14
    """Steps of such a run, beside two that do not count; beside the first few the driver still loads MLflow."""
    folder: str | None = None
    """Folder for the runs, removed afterwards. None: a temporary one."""

    def __post_init__(self) -> None:
        for name in ("starts", "rounds", "pairs"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("laps", "pair_steps"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.starts + self.rounds + self.pairs > 0, "nothing to measure: starts, rounds and pairs are all 0")


def run(options: Options) -> dict[str, Any]:
    """One row for each figure, its single measurements in `seconds`; needs no network."""
    folder = Path(tempfile.mkdtemp(prefix="h2q-train-", dir=options.folder)).absolute()
    try:
        # Splits of a few kB: it is not evaluation that is measured.
        corpus = CorpusConfig(source="manual", holdout=0.005, prepared=str(folder / "data"))
        prepare(corpus, local=True)
        rows, seconds = [], {}
        for part in (_starts, _overhead, _second_worker):
            more, measured = part(corpus, folder, options)
            rows += more
            seconds |= measured
    finally:
        shutil.rmtree(folder)
    return {"rows": rows, "seconds": seconds}


Part = tuple[list[dict[str, Any]], dict[str, list[float]]]


def _row(what: str, value: float, best: float, unit: str, target: str, holds: bool | None) -> dict[str, Any]:
    """`best`: from the least disturbed measurements; what a target is held against is the median."""
    reached = {True: "yes", False: "no", None: ""}[holds]
    return {"what": what, "median": value, "best": best, "unit": unit, "target": target, "reached": reached}


def _starts(corpus: CorpusConfig, folder: Path, options: Options) -> Part:
    """The command in processes of its own: from its start to the first step, from the last record to its end."""
    if not options.starts:
        return [], {}
    rows, seconds = [], {}
    for name, more, target in (("Ray", [], 12.0), ("local", ["--local"], 4.0)):
        first, end = f"start to first step, {name}", f"last record to end, {name}"
        for turn in range(options.starts):
            run_name = f"{name}-{turn}"
            command = [*_command("laptop", run_name, 20, corpus, folder), *more]
            began = time.time()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            ended = time.time()
            times = [record["time"] for record in read_journal(RunFolder(folder / "runs" / run_name).journal)]
            seconds.setdefault(first, []).append(times[0] - began)
            seconds.setdefault(end, []).append(ended - times[-1])
        for what, limit in ((first, target), (end, 2.0)):
            usual, best = median(seconds[what]), min(seconds[what])
            rows.append(_row(what, usual, best, "s", f"≤ {limit:g}", usual <= limit))
    return rows, seconds


def _command(preset: str, name: str, steps: int, corpus: CorpusConfig, folder: Path) -> list[str]:
    """The command of a run that records every step."""
    job = Path("jobs/train.py")
    require(job.exists(), f"the benchmark runs {job}: call it from the repository's root, not from {Path.cwd()}")
    command = [sys.executable, str(job), preset, "--name", name, "--storage", str(folder / "runs")]
    command += ["--training.steps", str(steps), "--training.log-every", "1"]
    command += ["--corpus.source", "manual", "--corpus.holdout", str(corpus.holdout)]
    return [*command, "--corpus.prepared", corpus.prepared, "--tracking.uri", sqlite_address(folder / "mlflow.db")]


def _overhead(corpus: CorpusConfig, folder: Path, options: Options) -> Part:
    """A step of the whole loop (data, logging, terminal, MLflow) beside the bare optimizer step, by turns."""
    if not options.rounds:
        return [], {}
    preset = PRESETS["laptop"]
    steps = STEPS_PER_LAP * (options.laps + 1)
    training = replace(preset.training, steps=steps, log_every=STEPS_PER_LAP, evaluate_every=steps, save_every=steps)
    config = replace(preset, model=options.model, training=training, corpus=corpus, local=True)
    bare = _bare_lap(config)
    laps: dict[str, list[float]] = {"step of the loop": [], "bare step": []}
    bare()
    for turn in range(options.rounds):
        laps["step of the loop"] += _laps(config, folder, f"loop-{turn}")[1:]
        laps["bare step"] += [bare() for _ in range(options.laps)]
    share, best = (100 * (1 - of(laps["bare step"]) / of(laps["step of the loop"])) for of in (median, min))
    return [_row("overhead of the loop", share, best, "% of a step", "≤ 3", share <= 3)], laps


def _bare_lap(config: RunConfig) -> Callable[[], float]:
    """Runs optimizer steps on one batch and nothing else; gives the seconds of one."""
    train_state = new_train_state(config, torch.device("cpu"))
    x, y = (torch.randint(256, (config.training.lanes, config.model.seq_len)) for _ in range(2))

    def lap() -> float:
        began = time.perf_counter()
        for _ in range(STEPS_PER_LAP):
            optimizer_step(train_state, train_state.model, x, y, config, nullcontext, detailed=False)
        wait()
        return (time.perf_counter() - began) / STEPS_PER_LAP

    return lap


def _second_worker(corpus: CorpusConfig, folder: Path, options: Options) -> Part:
    """One worker with one thread, and two of them, at preset h2q, by turns in one Ray; then two processes that exchange
    nothing, with half the lanes each: what the machine itself allows."""
    if not options.pairs:
        return [], {}
    preset = PRESETS["h2q"]
    steps = options.pair_steps + 2
    training = replace(preset.training, steps=steps, log_every=1, evaluate_every=steps, save_every=steps)
    seconds: dict[str, list[float]] = {"one worker": [], "two workers": [], "two apart": []}
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with ray_session(verbose=False):
            for turn in range(options.pairs):
                for workers, name in ((1, "one worker"), (2, "two workers")):
                    config = replace(preset, training=training, corpus=corpus, workers=workers, use_gpu="no")
                    seconds[name] += _laps(config, folder, f"{workers}-{turn}")[2:]
                seconds["two apart"] += _side_by_side(
                    replace(training, lanes=training.lanes // 2), corpus, folder, turn
                )
    finally:
        del os.environ["OMP_NUM_THREADS"]
        os.environ |= {"OMP_NUM_THREADS": threads} if threads is not None else {}
    gain, best, limit, best_limit = (
        of(seconds["one worker"]) / of(seconds[name]) for name in ("two workers", "two apart") for of in (median, min)
    )
    rows = [_row("two 1-thread workers over one, h2q", gain, best, "×", "≥ 1.7", gain >= 1.7)]
    return [*rows, _row("two processes that exchange nothing", limit, best_limit, "×", "", None)], seconds


def _side_by_side(training: TrainingConfig, corpus: CorpusConfig, folder: Path, turn: int) -> list[float]:
    """Seconds of a step of two local runs at once, in the precision of the others."""
    preset = PRESETS["h2q"]
    names = [f"apart-{turn}-{number}" for number in range(2)]
    more = ["--local", "--precision", preset.precision, "--training.lanes", str(training.lanes)]
    commands = [[*_command("h2q", name, training.steps, corpus, folder), *more] for name in names]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    for process, command in zip(processes, commands):
        if code := process.wait():
            raise subprocess.CalledProcessError(code, command)
    per_step = training.lanes * preset.model.seq_len
    return [second for name in names for second in _seconds(folder / "runs" / name, per_step)[2:]]


def _laps(config: RunConfig, folder: Path, name: str) -> list[float]:
    """Train, silently; the seconds of a step between records."""
    tracking = TrackingConfig(uri=sqlite_address(folder / "mlflow.db"))
    config = replace(config, name=name, storage=str(folder / "runs"), tracking=tracking)
    train(config, preset="benchmark", command="jobs/benchmark.py train", console=Console(file=StringIO()))
    return _seconds(folder / "runs" / name, config.training.lanes * config.model.seq_len)


def _seconds(run: Path, per_step: int) -> list[float]:
    """Seconds of a step of so many bytes, between records."""
    records = read_journal(RunFolder(run).journal)
    return [per_step / record["bytes_per_second"] for record in records if "bytes_per_second" in record]
