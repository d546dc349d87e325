"""Memory and time of the two backward passes, over depth; and how far the rebuilt gradients drift.

Peak memory is what one forward and backward pass holds beyond parameters and their gradients: on a GPU as its allocator
counts, on a CPU summed over the allocations that torch's profiler records.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.errors import require
from h2q.model import ByteModel
from h2q.reversible import run_reversible_ref
from pipeline.benchmark.model import PRECISIONS
from pipeline.benchmark.timing import interleave, ratio
from pipeline.config import PUBLISHED_SIZES
from pipeline.training.peak import peak_bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare storing activations with rebuilding them: peak memory, time, and drift of the gradients over depth.

    Drift is the relative distance of the gradients from those of plain autograd through the same forward pass."""

    model: ModelConfig = PUBLISHED_SIZES
    """The model; by default H2Q at its published sizes, with attention."""
    lanes: int = 24
    """Lanes of the batch."""
    depths: tuple[int, ...] = (2, 12, 48)
    """Numbers of blocks."""
    precision: str = "fp32"
    """Arithmetic of the matrix products: fp32, bf16, fp16."""
    rounds: int = 5
    """Turns that each case takes for timing, at the depth of `model`."""
    device: str = "auto"
    """`auto`: the GPU if there is one."""

    def __post_init__(self) -> None:
        require(self.model.halves, "model.halves must be on: one stream has no inverse")
        require(self.precision in PRECISIONS, f"precision is one of {', '.join(PRECISIONS)}, got {self.precision}")
        require(self.rounds >= 1, f"rounds must be at least 1, got {self.rounds}")


def run(options: Options) -> dict[str, Any]:
    """Peak bytes and gradient drift at each depth, and the ratio of times at the model's own depth."""
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    dtype = PRECISIONS[options.precision]
    torch.manual_seed(0)
    x = torch.randint(options.model.vocab, (options.lanes, options.model.seq_len), device=device)
    rows = []
    for depth in options.depths:
        store, reversible = twins(replace(options.model, depth=depth), device)
        peaks = {name: peak_bytes(backward(model, x, dtype), device) for name, model in pairs(store, reversible)}
        row = {"depth": depth, "store MiB": peaks["store"] / 2**20, "reversible MiB": peaks["reversible"] / 2**20}
        for name in ("fp32", "bf16"):
            rebuilt = gradient(reversible, x, PRECISIONS[name])
            with patch("h2q.model.run_reversible", run_reversible_ref):
                stored = gradient(reversible, x, PRECISIONS[name])
            row[f"drift {name}"] = ((stored - rebuilt).norm() / stored.norm()).item()
        rows.append(row)
        del store, reversible
    store, reversible = twins(options.model, device)
    seconds = interleave({name: backward(model, x, dtype) for name, model in pairs(store, reversible)}, options.rounds)
    return {
        "rows": rows,
        "seconds": seconds,
        "median seconds": {name: median(times) for name, times in seconds.items()},
        "time, reversible over store": ratio(seconds, "reversible", "store"),
        "precision": options.precision,
        "batch": list(x.shape),
        "model": options.model.to_dict(),
    }


def twins(config: ModelConfig, device: torch.device) -> tuple[ByteModel, ByteModel]:
    """The same parameters, none of them zero, with either backward pass."""
    config = replace(config, memory="store", dropout=0.0)
    torch.manual_seed(0)
    store, reversible = ByteModel(config).to(device), ByteModel(replace(config, memory="reversible")).to(device)
    with torch.no_grad():
        for name, parameter in store.named_parameters():
            if name.endswith(".factors") and not parameter.any():
                parameter.normal_(std=(4 * config.fixed_rank * config.factor) ** -0.5)
    reversible.load_state_dict(store.state_dict())
    return store, reversible


def pairs(store: ByteModel, reversible: ByteModel) -> list[tuple[str, ByteModel]]:
    """Names for tables."""
    return [("store", store), ("reversible", reversible)]


def backward(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """One forward and backward pass, adding to the gradients that are there."""

    def step() -> None:
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = functional.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        loss.backward()

    return step


def gradient(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """All gradients of one backward pass as one vector."""
    model.zero_grad()
    backward(model, x, dtype)()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
