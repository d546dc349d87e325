"""A training step as one CUDA graph: captured once, replayed at every step, so that the host launches one thing.

Shapes: `B` rows of this worker's part of the batch, `T` bytes of context.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from h2q.errors import UserError
from h2q.kernels.capture import capturing
from pipeline.training.train_state import TrainState


@dataclass(frozen=True)
class _Capture:
    graph: Any
    outputs: dict[str, Tensor]


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Libraries keep a workspace for each stream, tens of megabytes: one stream for all warm-ups and captures."""
    return torch.cuda.Stream(device)


class CapturedStep:
    """`step(x, y, detailed=…, reset=…)` as the function `work` that it wraps, replayed.

    Captured when first called, with and without details, and again where the batch's shape or the model's ranks have
    changed. `work` must do the same on the device each time, from tensors that stay where they are: weights, moments,
    counts, learning rates. A capture leaves all of them as they were, so that every step of a run is a replay. What is
    drawn (dropout) follows torch's seed at the replay, as in an eager step.
    """

    def __init__(self, work: Callable[..., dict[str, Tensor]], train_state: TrainState) -> None:
        self._work, self._train_state = work, train_state
        self._device = next(train_state.model.parameters()).device
        self._stream = _stream(self._device)
        self._shape: tuple[Any, ...] = ()
        self._captures: dict[bool, _Capture] = {}

    def __call__(self, x: Tensor, y: Tensor, *, detailed: bool, reset: Tensor | None = None) -> dict[str, Tensor]:
        """As `work`; the tensors that it returns are the caller's to keep."""
        self._prepare(x, y, reset)
        if detailed not in self._captures:
            self._captures[detailed] = self._capture(detailed)
        capture = self._captures[detailed]
        capture.graph.replay()
        return {name: value.clone() for name, value in capture.outputs.items()}

    def _prepare(self, x: Tensor, y: Tensor, reset: Tensor | None) -> None:
        """Put the batch where a capture reads it. A model that carries a state is always told where it forgets."""
        model = self._train_state.model
        shape = (x.shape, model.mixer_rank, model.ffn_rank)
        if shape != self._shape:
            torch.cuda.synchronize(self._device)  # what is thrown away, with its memory, may still be running
            self._captures.clear()
            self._pool = torch.cuda.graph_pool_handle()
            self._x, self._y = torch.empty_like(x), torch.empty_like(y)
            self._reset = torch.empty_like(x, dtype=torch.bool) if model.config.carries else None
            self._shape = shape
        self._x.copy_(x)
        self._y.copy_(y)
        if self._reset is not None:
            self._reset.zero_() if reset is None else self._reset.copy_(reset)

    def _capture(self, detailed: bool) -> _Capture:
        """Raises: UserError where torch cannot capture the step."""
        with torch.random.fork_rng(devices=[self._device]):
            if not self._captures:
                self._warm_up()  # before the first one alone: an eager step beside a graph takes twice the memory
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads (the next batch) may use CUDA meanwhile, this one must not.
                mode = "thread_local"
                with capturing(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
                    outputs = self._run_eagerly(detailed)
            except RuntimeError as error:
                # The end of a capture that went wrong raises an error of its own on top.
                cause = error.__context__ or error
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
                raise UserError(f"the step could not be captured as a CUDA graph ({reason}): use --graph no") from error
        return _Capture(graph, outputs)

    def _run_eagerly(self, detailed: bool) -> dict[str, Tensor]:
        return self._work(self._x, self._y, detailed=detailed, reset=self._reset)

    def _warm_up(self) -> None:
        """Steps for libraries to load their kernels and to take their workspaces, which a capture must not see.

        Their gradient is made not finite, so that they change nothing but the counts, which are put back.
        """
        train_state = self._train_state
        skipped, scaler = train_state.skipped.clone(), train_state.scaler.state_dict()
        poison = train_state.model.token_emb.weight.register_hook(lambda gradient: gradient * float("nan"))
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for detailed in (True, False):
                self._run_eagerly(detailed)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        poison.remove()
        train_state.skipped.copy_(skipped)
        train_state.scaler.load_state_dict(scaler)
