"""A tuned lens: at which depth of the core the next byte becomes known.

Behind each block the residual stream goes through an affine map of that block's own to the core's final norm and head.
The maps are trained so that their distributions come near to the core's own output (Belrose et al., "Eliciting latent
predictions from transformers with the tuned lens", 2023). Shapes: `B` windows, `T` bytes, `D` width.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.model import ByteModel
from pipeline.corpus.side_by_side import Bytes
from pipeline.training.optimizer import AdamW

STEPS, WINDOWS, LENGTH, RATE = 150, 8, 128, 3e-3
"""Of a map's training, with AdamW without decay: steps, windows in a step, their bytes, and learning rate."""

SCORED = 64
"""Windows that are scored, evenly over the text."""


@dataclass(frozen=True)
class Depth:
    """What is known behind a block: bits per byte of the next byte, and bits by which the core's output is missed
    (Kullback-Leibler divergence)."""

    block: int
    bpb: float
    divergence: float


def tuned_lens(
    core: ByteModel,
    text: Bytes,
    held_out: Bytes,
    seed: int = 0,
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> list[Depth]:
    """For each block of the core, whose windows start at a state of zero: maps trained on the text, judged held out.
    `on_progress` hears how many of all bytes the maps were trained on."""
    length = min(LENGTH, core.config.longest or LENGTH, len(held_out) - 1, len(text) - 1)
    places = np.random.Generator(np.random.Philox(seed)).integers(0, len(text) - length, (STEPS, WINDOWS))
    judged = _windows(held_out, np.linspace(0, len(held_out) - length - 1, SCORED).astype(int), length, core)
    found, steps = [], STEPS * (core.config.depth - 1)

    def batches(block: int) -> Iterator[Tensor]:
        for step, row in enumerate(places, start=(block - 1) * STEPS):
            on_progress(step * WINDOWS * length, steps * WINDOWS * length)
            yield _windows(text, row, length, core)

    for blocks in range(1, core.config.depth + 1):
        part = shortened(core, blocks)
        lens = nn.Linear(core.config.dim, core.config.dim).to(core.device)
        with torch.no_grad():
            lens.weight.copy_(torch.eye(core.config.dim))
            lens.bias.zero_()
        if blocks < core.config.depth:  # the last one is the core's output already
            _train(lens, core, part, batches(blocks))
        with torch.no_grad():
            logits, wanted = _seen(lens, core, part, judged)
            bpb = functional.cross_entropy(logits.transpose(1, 2), judged[:, 1:]).item() / math.log(2)
            missed = functional.kl_div(
                logits.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none"
            )
        found.append(Depth(blocks, bpb, missed.sum(-1).mean().item() / math.log(2)))
    return found


def shortened(core: ByteModel, blocks: int) -> ByteModel:
    """The core's first blocks alone, with its weights."""
    part = ByteModel(replace(core.config, depth=blocks)).to(core.device).eval().requires_grad_(False)
    weights = core.state_dict()
    part.load_state_dict({name: weights[name] for name in part.state_dict()})
    return part


def _train(lens: nn.Linear, core: ByteModel, part: ByteModel, batches: Iterable[Tensor]) -> None:
    optimizer = AdamW(lens.parameters(), lr=RATE, weight_decay=0.0)
    for batch in batches:
        logits, wanted = _seen(lens, core, part, batch)
        functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(0, 1).softmax(-1)).backward()
        optimizer.step()
        optimizer.zero_grad()


def _seen(lens: nn.Linear, core: ByteModel, part: ByteModel, windows: Tensor) -> tuple[Tensor, Tensor]:
    """The logits behind the part of the core, and the core's own, (B, T, V)."""
    with torch.no_grad():
        _, stream = part(windows[:, :-1], with_stream=True)
        wanted = core(windows[:, :-1])
    assert isinstance(wanted, Tensor)
    return core.head(core.norm(lens(stream))), wanted


def _windows(text: Bytes, starts: np.ndarray, length: int, core: ByteModel) -> Tensor:
    rows = np.stack([text.read(int(start), int(start) + length + 1) for start in starts])
    return torch.from_numpy(rows).to(core.device).long()
