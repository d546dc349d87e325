"""A model that learns from what was coded: from the chunk just before, and again from chunks before that.

A decoder can follow it step by step, because all that it learns from is known to one. From nothing it is what makes a
compressor of a model; from trained weights it is dynamic evaluation (Krause et al. 2018). New weights predict by a
running average of themselves, as a constant rate leaves them noisy (Polyak and Juditsky 1992).

Shapes: `L` lanes, `T` bytes of a chunk.
"""

import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from pipeline.config import RunConfig
from pipeline.runs.checkpoint import Checkpoint
from pipeline.training.optimizer import set_learning_rate
from pipeline.training.precision import Autocast
from pipeline.training.schedule import learning_rate
from pipeline.training.step import optimizer_step
from pipeline.training.train_state import TrainState, new_train_state

Rate = Callable[[int], float]
"""The learning rate of an optimizer step."""

UPDATES, LANES = 2, 4
"""Of new weights, which learn the more from a file the more often they are moved."""

KEPT = 0.95
"""Of the running average of new weights, at each chunk."""

WARMUP, RAISED = 100, 1.6
"""Optimizer steps of new weights until their rate is at its peak, at most, and how many times the config's that is:
they learn from the first bytes on, see each only a few times, and the average takes off the noise."""


class Learner:
    """The model that predicts and how it learns. Deterministic given its arguments, the chunks and torch's threads."""

    def __init__(
        self,
        config: RunConfig,
        checkpoint: Checkpoint | None,
        device: torch.device,
        autocast: Autocast,
        *,
        lanes: int,
        rate: Rate,
        updates: int | None = None,
    ) -> None:
        """New weights drawn from the config's seed, or those of the checkpoint. Optimizer settings, penalties and the
        seed of dropout are the config's; lanes, which are another number, learn as one micro-batch. `updates`:
        optimizer steps for a chunk, see `updates_of`."""
        self._config, self._autocast, self._rate = replace(config, accumulate=1), autocast, rate
        self._updates = updates_of(checkpoint, updates)
        self._train_state = begin(config, checkpoint, device, lanes)
        self.model = (deepcopy(self._train_state.model) if checkpoint is None else self._train_state.model).eval()
        """What predicts, in evaluation mode."""
        self._chunks: list[np.ndarray] = []

    def learn(self, chunk: np.ndarray) -> None:
        """Learn from a chunk of every lane, (L, T + 1) uint8, all of one T, and then from chunks drawn from those so
        far."""
        step, train_state = len(self._chunks), self._train_state
        self._chunks.append(chunk)
        train_state.model.train()
        set_learning_rate(train_state.optimizer, self._rate(step * self._updates))
        self._update(chunk, f"{step} 0")
        state = train_state.carried.clone()
        for number in range(1, self._updates):
            random = np.random.default_rng([self._config.training.seed, step, number])
            drawn = random.integers(len(self._chunks), size=len(chunk))
            train_state.carried.zero_()
            self._update(np.stack([self._chunks[which][lane] for lane, which in enumerate(drawn)]), f"{step} {number}")
        train_state.carried.copy_(state)
        train_state.model.eval()
        if self.model is not train_state.model:
            kept = min(KEPT, (step + 1) / (step + 10))
            for mean, weight in zip(self.model.parameters(), train_state.model.parameters(), strict=True):
                mean.detach().lerp_(weight.detach(), 1 - kept)

    def _update(self, rows: np.ndarray, drawn: str) -> None:
        train_state, config = self._train_state, self._config
        torch.manual_seed(zlib.crc32(f"{config.training.seed} {drawn}".encode()))
        data = torch.from_numpy(rows.astype(np.int64)).to(train_state.model.device)
        optimizer_step(
            train_state, train_state.model, data[:, :-1], data[:, 1:], config, self._autocast, detailed=False
        )


def begin(config: RunConfig, checkpoint: Checkpoint | None, device: torch.device, lanes: int) -> TrainState:
    """New weights, or those of the checkpoint with their moments; a state begins in each lane at zero.

    A checkpoint that was imported has no moments: AdamW begins without. The rank stays what it is.
    """
    train_state = new_train_state(config, device, rows=lanes)
    if checkpoint is not None and checkpoint.optimizer:
        train_state.restore(replace(checkpoint, carried={}))
    elif checkpoint is not None:
        train_state.model.load_state_dict(checkpoint.model)
    return train_state


def updates_of(checkpoint: Checkpoint | None, given: int | None) -> int:
    """Optimizer steps for a chunk: as given, else UPDATES for new weights and one for those of a checkpoint."""
    return given or (UPDATES if checkpoint is None else 1)


def learning_rates(config: RunConfig, checkpoint: Checkpoint | None, given: float | None) -> Rate:
    """The rate of each step: constant, after a warm-up where the weights are new.

    Not `given`, it is the config's peak times RAISED for new weights, else the one at which the checkpoint was made.
    """
    training = replace(config.training, schedule="constant", warmup=min(WARMUP, config.training.warmup))
    if checkpoint is None:
        training = replace(training, learning_rate=RAISED * training.learning_rate if given is None else given)
        return lambda step: learning_rate(step, training)
    state = checkpoint.state
    made_at = learning_rate(state["step"], config.training, state.get("leg")) * 0.5 ** state.get("rollbacks", 0)
    grown = len(state.get("growth", {}).get("grown_at", []))
    constant = made_at * config.growth.lr_scale**grown if given is None else given
    return lambda step: constant
