"""Whether what is fast learns the same: loss over some steps, bf16 beside fp32, a CUDA graph beside the eager step."""

import math
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from h2q.config import ModelConfig
from h2q.errors import require
from h2q.model import ByteModel
from pipeline.benchmark.gpu_measure import WARM_STEPS, Bench, captured, free_memory
from pipeline.benchmark.gpu_train import set_precision
from pipeline.benchmark.model import training_step

RATE = 1e-3
"""Learning rate, constant."""


def learning(
    bench: Bench, config: ModelConfig, lanes: int, steps: int, seeds: int, path: str | None
) -> dict[str, list[float]]:
    """Losses, in nats per byte, of every step of every run; rows compare them: mean bits per byte of the last quarter,
    and the largest distance of a graph from the eager run, of another precision from fp32, of the same seed."""
    data = _lanes(config, lanes, path)
    ways = [("fp32", False)]
    if bench.device.type == "cuda":
        ways += [("fp32", True), ("bf16", False), ("bf16", True)]
    else:
        ways += [("bf16", False)]
    runs: dict[str, list[float]] = {}
    for seed in range(seeds):
        for precision, graph in ways:
            name = f"{precision}, {'graph' if graph else 'eager'}, seed {seed}"
            if bench.left < 15:
                bench.add("learn", name, note="left out: the time is up")
                continue
            runs[name] = losses = _train(config, data, steps, seed, precision, bench.device, graph=graph)
            tail = mean(losses[-max(1, steps // 4) :]) / math.log(2)
            other = f"{precision if graph else 'fp32'}, eager, seed {seed}"
            apart = max(abs(a - b) for a, b in zip(losses, runs.get(other, losses)))
            note = "" if name == other else f"within {apart:.2g} nats of {other.partition(', seed')[0]}"
            bench.add("learn", name, f"{steps} steps", rate=tail, unit="bpb", note=note)
            free_memory()
    return runs


def _train(
    config: ModelConfig, data: Tensor, steps: int, seed: int, precision: str, device: torch.device, *, graph: bool
) -> list[float]:
    """The batch of a step is the next T bytes of every lane. The steps before a graph is recorded are taken eagerly
    too, all on the first batch, so that both ways take the same ones."""
    torch.manual_seed(seed)
    model = ByteModel(config).to(device)
    length, data = config.seq_len, data.to(device)
    x, y = data[:, :length].clone(), data[:, 1 : length + 1].clone()
    step = training_step(model, x, y, set_precision(precision, device), rate=RATE)
    if graph:
        step = captured(step)
    else:
        for _ in range(WARM_STEPS):
            step()
    losses = torch.zeros(steps, device=device)
    for number in range(steps):
        start = number * length % (data.shape[1] - length)
        x.copy_(data[:, start : start + length])
        y.copy_(data[:, start + 1 : start + length + 1])
        losses[number] = step()
    return losses.tolist()


def _lanes(config: ModelConfig, lanes: int, path: str | None) -> Tensor:
    """Text, cut into B lanes side by side: (B, bytes of a lane) int64. None: the topics of Python's manual."""
    if path is None:
        from pydoc_data.topics import topics

        text = "".join(topics.values()).encode()
    else:
        require(Path(path).is_file(), f"text must be a file, found none at {path}")
        text = Path(path).read_bytes()
    each = len(text) // lanes
    require(
        each > 2 * config.seq_len,
        f"the text must hold two windows for each of {lanes} lanes, {2 * lanes * config.seq_len:,} bytes, "
        f"got {len(text):,}: give a longer --text",
    )
    symbols = torch.frombuffer(bytearray(text[: each * lanes]), dtype=torch.uint8).view(lanes, each)
    return symbols.to(torch.int64) % config.vocab
