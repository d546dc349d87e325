"""One optimizer step of a projector: the core reads on, at a few moments the projector writes what was and what comes.

Shapes: `B` lanes, `C` bytes of a lane in a step, `M` moments of each lane, `F` numbers of a moment, `T` bytes written.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from h2q.projector import Projector
from pipeline.config import RunConfig
from pipeline.projector.core import Reader
from pipeline.training.precision import Autocast
from pipeline.training.step import Step, move, penalties
from pipeline.training.train_state import TrainState

BLANK = 0.1
"""Share of moments that are given no state, so that the same decoder is trained to do without."""

SHARES = ((1, 1), (1 / 2, 2), (1 / 4, 4), (1 / 8, 4), (1 / 16, 4))
"""Which share of the bytes is written in a step, and how often beside the others: the nearest ones, which cost least,
more often than all."""

NEXT = 0.25
"""Weight of the bytes to come beside those that were."""


class Moments(NamedTuple):
    """Moments of a text, one below the other, lane by lane for each place."""

    features: Tensor
    """(M B, F)."""
    last: Tensor
    """The bytes before each, as they stand in the text, (M B, last)."""
    ahead: Tensor
    """The bytes behind it, (M B, next)."""


def read_moments(
    core: Reader, text: Tensor, places: Sequence[int], state: Tensor, reset: Tensor | None, *, last: int, ahead: int
) -> tuple[Moments, Tensor]:
    """Let the core read a chunk: text (B, C + ahead), whose first C bytes it reads behind a state. The moments behind
    so many bytes of it (`places`, rising, from `last` to C), and the state behind the chunk."""
    chunk, found, at = text.shape[1] - ahead, [], 0
    for place in places:
        features, state = core.moment(text[:, at:place], state, None if reset is None else reset[:, at:place])
        found.append((features, text[:, place - last : place], text[:, place : place + ahead]))
        at = place
    if at < chunk:
        _, state = core.moment(text[:, at:chunk], state, None if reset is None else reset[:, at:chunk])
    return Moments(*(torch.cat(parts) for parts in zip(*found, strict=True))), state


def make_step(train_state: TrainState, forward: Any, core: Reader, run: RunConfig, autocast: Autocast) -> Step:
    """The optimizer step of a projector; what is drawn in it comes from torch's global random state, which the loop
    seeds by step and worker."""
    projector, model = run.projector, train_state.model
    assert projector is not None

    def step(x: Tensor, y: Tensor, *, detailed: bool, reset: Tensor | None = None) -> dict[str, Tensor]:
        text = torch.cat((x[:, :1], y), dim=1)
        grain = run.model.seq_len if core.attends else 1
        free = torch.arange(-(-projector.last // grain), run.chunk // grain + 1) * grain
        places = free[torch.randperm(len(free))[: projector.moments].sort().values].tolist()
        found, after = read_moments(
            core, text, places, train_state.carried, reset, last=projector.last, ahead=projector.next
        )
        train_state.carried.copy_(after)
        share, _ = SHARES[int(torch.multinomial(torch.tensor([float(often) for _, often in SHARES]), 1))]
        written = math.ceil(projector.last * share), math.ceil(projector.next * share)
        return _update(train_state, forward, model, found, written, run, autocast, detailed)

    return step


def _update(
    train_state: TrainState,
    forward: Any,
    model: Projector,
    found: Moments,
    written: tuple[int, int],
    run: RunConfig,
    autocast: Autocast,
    detailed: bool,
) -> dict[str, Tensor]:
    """Move the projector, unless its gradient is not finite, by the bytes nearest to the moments, so many `written`."""
    blank = torch.rand(len(found.features), 1, device=found.features.device) < BLANK
    features = found.features.masked_fill(blank, torch.nan)
    last, ahead = model.in_order(found.last[:, -written[0] :]), found.ahead[:, : written[1]]
    with autocast():
        logits = forward(features, last, ahead)
    was, comes = (
        functional.cross_entropy(each.transpose(1, 2), text, reduction="none").mean(1)
        for each, text in zip(logits, (last, ahead), strict=True)
    )
    known = ~blank[:, 0] | blank.all()  # of few moments all may be blank
    measured = {"loss": was[known].mean().detach()}
    objective = was.mean() + NEXT * comes.mean() + penalties(model.decoder, run.training, measured, detailed)
    train_state.scaler.scale(objective).backward()
    norm, _ = move(train_state, run.training.clip)
    if detailed:
        measured |= {"objective": objective.detach(), "gradient_norm": norm, "next_loss": comes.mean().detach()}
    return measured
