"""One training of `benchmark quality`: as many steps as its budget of seconds allows."""

import time
from dataclasses import replace
from typing import Any

import torch

from h2q.baselines import multiply_adds, parameters
from h2q.config import GrowthConfig
from h2q.growth import grow
from h2q.model import ByteModel
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.lanes import Lanes
from pipeline.training.optimizer import set_learning_rate
from pipeline.training.precision import Autocast, setup_precision
from pipeline.training.resets import resets_on
from pipeline.training.schedule import learning_rate
from pipeline.training.step import optimizer_step
from pipeline.training.train_state import TrainState, new_train_state
from pipeline.training.validate import bits_per_byte
from pipeline.training.worker import Worker


def learn(config: RunConfig, corpus: Corpus, budget: float, points: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train for so many seconds; the result with its curve, and the weights on the host."""
    worker, autocast = _worker(config)
    steps = max(points, int(budget / _step_seconds(config, corpus, worker, autocast)))
    config = replace(config, training=_fitted(config, steps), growth=_growth_within(config.growth, steps))
    train_state, lanes = _begin(config, corpus, worker)
    model, training, growth = train_state.model, config.training, train_state.growth
    resets = resets_on(config, corpus.train, worker)
    losses: list[torch.Tensor] = []
    curve, seconds, began = [], 0.0, _now(worker)
    due = {round((number + 1) * steps / points) for number in range(points)}
    for step in range(steps):
        set_learning_rate(train_state.optimizer, learning_rate(step, training) * growth.lr_factor)
        torch.manual_seed(training.seed * 1_000_003 + step)
        batch = lanes.batch(step, device=worker.device)
        measured = optimizer_step(train_state, model, *batch, config, autocast, detailed=False, reset=resets(step))
        losses.append(measured["loss"])
        if growth.decides_at(step + 1):
            train_state.note(worker.means(losses))
            if growth.decide():
                grow(model, config.growth.where, seed=training.seed)
        if step + 1 in due:
            seconds += _now(worker) - began
            size = (step + 1) * config.bytes_per_step
            bpb = bits_per_byte(model, corpus.validation, worker, autocast)
            curve.append({"bytes": size, "seconds": seconds, "bpb": bpb, "rank": model.rank})
            began = _now(worker)
    return _result(config, train_state, curve, worker), {
        name: value.cpu() for name, value in model.state_dict().items()
    }


def _result(config: RunConfig, train_state: TrainState, curve: list[dict[str, Any]], worker: Worker) -> dict[str, Any]:
    return {
        "parameters": parameters(config.model),
        "multiply-adds": multiply_adds(config.model),
        "rate": config.training.learning_rate,
        "steps": config.training.steps,
        "bytes": curve[-1]["bytes"],
        "seconds": curve[-1]["seconds"],
        "rank": None if train_state.model.bank is None else train_state.model.rank,
        "grown at": train_state.growth.grown_at,
        "clock": "of a GPU" if worker.device.type == "cuda" else "of one CPU thread",
        "curve": curve,
        "model": config.model.to_dict(),
    }


def score(config: RunConfig, weights: dict[str, Any], corpus: Corpus, *, carry: bool = True) -> float:
    """Bits per byte of the test split; not `carry`: with the state reset in each window."""
    worker, autocast = _worker(config)
    model = ByteModel(config.model).to(worker.device)
    model.load_state_dict(weights)
    return bits_per_byte(model, corpus.test, worker, autocast, carry=carry)


def _worker(config: RunConfig) -> tuple[Worker, Autocast]:
    torch.set_num_threads(1)
    worker = Worker(world_rank=0, world_size=1, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return worker, setup_precision(config.precision, worker.device)


def _now(worker: Worker) -> float:
    """Seconds of this thread's CPU (backward passes on a CPU run in the thread that calls them), or of the clock."""
    if worker.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time()


def _begin(config: RunConfig, corpus: Corpus, worker: Worker) -> tuple[TrainState, Lanes]:
    training = config.training
    train_state = new_train_state(config, worker.device)
    return train_state, Lanes(corpus.train, lanes=training.lanes, seq_len=config.chunk, seed=training.seed)


def _step_seconds(config: RunConfig, corpus: Corpus, worker: Worker, autocast: Autocast) -> float:
    """Of one step of a model that is thrown away, without the first two."""
    train_state, lanes = _begin(config, corpus, worker)
    began = 0.0
    for step in range(10):
        if step == 2:
            began = _now(worker)
        batch = lanes.batch(step, device=worker.device)
        optimizer_step(train_state, train_state.model, *batch, config, autocast, detailed=False)
    return (_now(worker) - began) / 8


def _fitted(config: RunConfig, steps: int) -> Any:
    """The training with its schedule over so many steps; the warm-up keeps its share of the preset's steps."""
    training = config.training
    return replace(training, steps=steps, warmup=round(training.warmup / training.steps * steps))


def _growth_within(growth: GrowthConfig, steps: int) -> GrowthConfig:
    """The growth rule with its times as shares of a short run, so that it has occasion to grow."""
    part = max(1, steps // 20)
    return replace(
        growth, warmup=5 * part, interval=2 * part, window=part, lookback=2 * part, threshold=0.97, rank_warmup=part
    )
