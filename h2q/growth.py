"""Dynamic rank growth: when the training loss stagnates, every chosen Hamilton layer gains one rank, in place.

Storage for `max_rank` is there from the start, zero in both cores of a term: a rank that is not active gets no
gradient, weight decay of zero is zero, and parameters, optimizer and wrappers stay what they are.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from h2q.config import GrowthConfig
from h2q.errors import require
from h2q.layers import growing
from h2q.model import ByteModel, component


class RankGrowth:
    """The plateau rule: feed it the training loss of every step with `observe`, then ask it to `decide`.

    Every `interval` steps from step `warmup` on, the mean loss of the last `window` steps is compared with that of the
    `window` that began `lookback` steps ago; recent > threshold × old means grow. Knows nothing of the model but
    `room`, the ranks that its storage has left; feed every worker the same losses and all decide alike.
    """

    def __init__(self, config: GrowthConfig, room: int) -> None:
        self.config = config
        self.room = room
        self.step = 0
        self.grown_at: list[int] = []
        self._losses: deque[float] = deque(maxlen=config.lookback)

    def observe(self, loss: float) -> None:
        """The training loss of one more step."""
        self.step += 1
        self._losses.append(loss)

    def decides_at(self, step: int) -> bool:
        """Whether a decision falls due after so many steps: losses are not needed on the host before."""
        config = self.config
        if not config.enabled or len(self.grown_at) >= self.room or step < config.lookback:
            return False
        if self.grown_at and step < self.grown_at[-1] + config.interval + config.cooldown:
            return False
        return step >= config.warmup and (step - config.warmup) % config.interval == 0

    def decide(self) -> bool:
        """Whether to grow now, after the steps observed so far. True counts as done: call `grow`."""
        if not self.decides_at(self.step):
            return False
        losses, window = list(self._losses), self.config.window
        recent, old = sum(losses[-window:]) / window, sum(losses[:window]) / window
        if grows := recent > self.config.threshold * old:
            self.grown_at.append(self.step)
        return grows

    @property
    def lr_factor(self) -> float:
        """Factor on the learning rate: lr_scale for each growth so far."""
        return self.config.lr_scale ** len(self.grown_at)

    def shares(self, step: int) -> dict[int, float]:
        """Ranks still in their own warm-up, counted from the first grown one, and the share that counts of the update
        behind so many steps: a linear rise over `rank_warmup` steps. Their losses need not all have been observed."""
        risen = {rank: (step - grown + 1) / (self.config.rank_warmup + 1) for rank, grown in enumerate(self.grown_at)}
        return {rank: share for rank, share in risen.items() if share < 1}

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, as plain JSON."""
        return {"step": self.step, "grown_at": list(self.grown_at), "losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.step, self.grown_at = state["step"], list(state["grown_at"])
        self._losses = deque(state["losses"], maxlen=self.config.lookback)


@torch.no_grad()
def grow(model: ByteModel, where: Literal["ffn", "all"] = "ffn", *, seed: int = 0) -> int:
    """Give the layers that `where` names one more active rank, in place; the bank too, when it has none left for them.

    Logits stay bit for bit (up to rounding where Hamilton layers multiply by their factors): one core of the new term
    is zero still, while the other, the bank's new component or a layer's new factors, is drawn from (seed, rank), alike
    on every worker, so that the first gets a gradient at the next step. Returns the new rank of the grown layers.
    Raises: UserError when the storage is full.
    """
    rank = model.ffn_rank
    kind = model.config.kind
    require(kind in growing(), f"a {kind} model has no rank to grow: model.kind must be one of {', '.join(growing())}")
    require(
        rank < model.config.storage_rank,
        f"every rank in storage is active: model.max_rank = {model.config.storage_rank}; train with a larger one",
    )
    generator = torch.Generator().manual_seed(((seed << 16) + rank) % 2**64)  # as much as torch takes
    if model.bank is None:
        for layer in _layers(model, where):
            layer.grow(rank, generator)
    elif rank == model.rank:
        model.bank.components[rank] = component(model.config, rank, generator)
    model.set_ranks(mixer=rank + 1 if where == "all" else model.mixer_rank, ffn=rank + 1)
    return rank + 1


def _layers(model: ByteModel, where: Literal["ffn", "all"]) -> list:
    """The layers that grow."""
    blocks: list = list(model.blocks)
    mixing = [layer for block in blocks for part in block.mixer.parts for layer in (*part.inward, part.outward)]
    feeding = [layer for block in blocks for layer in block.hidden]
    return [*feeding, *(mixing if where == "all" else [])]


@contextmanager
def easing(model: ByteModel, growth: RankGrowth, step: int) -> Iterator[None]:
    """Around `optimizer.step()` after so many steps: the own warm-up of new ranks, of whose update only a share counts.

    Adam's first steps on fresh moments are its longest (up to (1 − β₁) / √(1 − β₂) times the learning rate, beside old
    ranks whose moments have settled). Costs nothing when no rank is new.
    """
    fresh = [
        (term, term.detach().clone(), share)
        for rank, share in growth.shares(step).items()
        for term in _term(model, model.config.fixed_rank + rank)
    ]
    yield
    for term, before, share in fresh:
        term.copy_(torch.lerp(before, term, share))


def _term(model: ByteModel, rank: int) -> list[Tensor]:
    """Views of both cores of one term, in the bank and in every layer."""
    cores = (".components", ".factors", ".mixing")
    owners = [parameter for name, parameter in model.named_parameters() if name.endswith(cores)]
    return [parameter.data[rank] for parameter in owners]
