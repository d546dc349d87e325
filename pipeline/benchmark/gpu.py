"""All about one GPU in one call of minutes: training, its floors and kernels, learning, writing, scoring, memory."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from h2q.config import ModelConfig
from h2q.errors import require
from pipeline.benchmark.gpu_inference import backward_memory, decoding, scoring
from pipeline.benchmark.gpu_learning import learning
from pipeline.benchmark.gpu_measure import Bench
from pipeline.benchmark.gpu_train import device_floors, kernels, training_cases
from pipeline.config import PUBLISHED_SIZES
from pipeline.training.precision import check_precision

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
PARTS = ("train", "write", "learn", "kernels", "score", "memory")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure on one GPU: a training step of the published formulation, of the model in every precision, eager and as a
    CUDA graph, of a dense twin and of one with a state; floors; bytes written and scored a second; memory of the
    backward passes; where the time goes; whether bf16 and the graph learn the same."""

    model: ModelConfig = PUBLISHED_SIZES
    """The model; by default H2Q at its published sizes, with attention."""
    lanes: int = 24
    """Lanes of the batch."""
    times: tuple[int, ...] = (1, 8, 32)
    """Batches, as multiples of it."""
    precisions: tuple[str, ...] = PRECISIONS
    """Arithmetic of the matrix products: fp32, tf32, bf16, fp16."""
    parts: tuple[str, ...] = PARTS
    """What to measure: train, write, learn, kernels, score, memory."""
    seconds: float = 0.8
    """Seconds of timed calls for a case."""
    rounds: int = 5
    """Turns into which they are cut; a figure is the median over them."""
    minutes: float = 5.5
    """Cases that would begin later are left out."""
    streams: int = 1024
    """Streams written in step."""
    rows: int = 64
    """Windows scored at a time."""
    depths: tuple[int, ...] = (12, 48)
    """Numbers of blocks for the memory of the backward passes."""
    steps: int = 200
    """Steps of each run of the comparison of learning."""
    seeds: int = 2
    """Seeds of it."""
    text: str | None = None
    """File to learn from. None: the topics of Python's manual."""
    compile: bool = True
    """Also time the model under torch.compile, at the last batch and the first."""
    device: str = "auto"
    """`auto`: the GPU; `cpu` tries it out, without graphs, at sizes that should be small."""

    def __post_init__(self) -> None:
        for name in ("lanes", "rounds", "streams", "rows", "steps", "seeds"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seconds", "minutes"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        require(len(self.times) > 0 and min(self.times) >= 1, f"times must be 1 or more, got {self.times}")
        require(self.model.kind == "hamilton", f"model.kind must be hamilton, got {self.model.kind}")
        for name, known in (("precisions", PRECISIONS), ("parts", PARTS)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            require(not unknown, f"{name} are {', '.join(known)}, got {', '.join(unknown)}")
        require(len(self.precisions) > 0, "precisions must name at least one")


def run(options: Options) -> dict[str, Any]:
    """A row for each case; `runs` holds the losses of the comparison of learning."""
    device = _device(options.device)
    precisions = _possible(options.precisions, device)
    deadline = time.monotonic() + 60 * options.minutes
    bench = Bench(device, options.seconds, options.rounds, deadline)
    runs: dict[str, list[float]] = {}
    for part in options.parts:
        if bench.left <= 0:
            bench.add(part, "all", note="left out: the time is up")
            continue
        try:
            runs |= _measure(part, bench, options, precisions)
        except torch.OutOfMemoryError:
            bench.add(part, "the rest", note="out of memory")
    if options.compile and "train" in options.parts:  # Last, for torch's compiler takes minutes.
        for times in sorted({options.times[-1], options.times[0]}, reverse=True):
            for case in training_cases(options.model, options.lanes * times, precisions, device, compiled=True):
                bench.time(case)
    if device.type != "cuda":
        bench.add("train", "graphs, kernels", note="left out: they need a CUDA device")
    _compare(bench.rows)
    return {"rows": bench.rows, "runs": runs, "device": str(device), "model": options.model.to_dict()}


def _measure(part: str, bench: Bench, options: Options, precisions: tuple[str, ...]) -> dict[str, list[float]]:
    """The rows of one part; losses, of the part that learns."""
    if part == "train":
        _train(bench, options, precisions)
    elif part == "write":
        decoding(bench, options.model, options.streams, precisions)
    elif part == "learn":
        return learning(bench, options.model, options.lanes, options.steps, options.seeds, options.text)
    elif part == "kernels" and bench.device.type == "cuda":
        best = "bf16" if "bf16" in precisions else precisions[0]
        for times in sorted({options.times[0], options.times[-1]}):
            kernels(bench, options.model, options.lanes * times, best)
    elif part == "score":
        for case in scoring(options.model, options.rows, precisions, bench.device):
            bench.time(case)
    elif part == "memory" and options.model.halves:
        backward_memory(bench, options.model, options.lanes, options.depths, precisions[0])
    return {}


def _train(bench: Bench, options: Options, precisions: tuple[str, ...]) -> None:
    small = bench.device.type == "cpu"
    for case in device_floors(bench.device, size=256 if small else 8192, copied=1 << (24 if small else 32)):
        bench.time(case)
    for times in options.times:
        for case in training_cases(options.model, options.lanes * times, precisions, bench.device):
            bench.time(case)


def _device(name: str) -> torch.device:
    require(
        name != "auto" or torch.cuda.is_available(),
        "this benchmark needs a CUDA device, torch finds none here: run it where there is one, or try it out with "
        "--device cpu --model.dim 64 --model.factor 8 --model.fixed-rank 2 --model.depth 2 --lanes 2",
    )
    return torch.device("cuda" if name == "auto" else name)


def _possible(precisions: tuple[str, ...], device: torch.device) -> tuple[str, ...]:
    """Those that the device can do; a CPU tries out what is not made for a GPU."""
    if device.type == "cpu":
        return tuple(name for name in precisions if name in ("fp32", "bf16")) or ("fp32",)
    for name in precisions:
        check_precision(name, device)
    return precisions


def _compare(rows: list[dict[str, Any]]) -> None:
    """The rate of every training step over that of the published formulation at its batch."""
    rates = {row["batch"]: row["rate"] for row in rows if row["case"].startswith("published") and row["rate"]}
    for row in rows:
        if row["part"] in ("train", "floor") and row["rate"] and row["batch"] in rates:
            row["× published"] = row["rate"] / rates[row["batch"]]
