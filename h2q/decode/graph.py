"""Decoding with one CUDA graph a byte: a step of `StaticDecoder` recorded once, then replayed. Runs eagerly elsewhere.

Shapes: `B` streams, `T` positions, `V` alphabet.
"""

from collections.abc import Callable, Iterator
from random import Random

import torch
from torch import Tensor

from h2q.config import SamplingConfig
from h2q.decode.draw import draw
from h2q.decode.static import StaticDecoder
from h2q.kernels.capture import capturing
from h2q.model import ByteModel

MOST_AHEAD = 32
"""Bytes of a stream that the device may write before the host looks at them."""


class Replayed:
    """A context → the logits after it, (V,), as `Cached` gives them, by a graph where there is CUDA."""

    def __init__(self, model: ByteModel, *, fused: bool = True) -> None:
        self._decoder, self._seen = StaticDecoder(model, 1, fused=fused), b""
        self._step = recorded(self._decoder.step, self._decoder.device)

    @torch.inference_mode()
    def __call__(self, context: bytes) -> Tensor:
        decoder, newest = self._decoder, len(context) - 1
        grown = newest > 0 and newest == len(self._seen) and context.startswith(self._seen)
        # Cleared meanwhile: an interrupted pass must leave nothing to build on.
        self._seen = b""
        if grown:
            decoder.window[0, newest] = context[-1]
            decoder.position.fill_(newest)
            self._step()
        else:
            decoder.window[0, : len(context)] = torch.tensor(list(context), device=decoder.device)
            decoder.fill(len(context))
        self._seen = bytes(context)
        return decoder.logits[0].clone()


class Writer:
    """Writes bytes behind B contexts of one length and draws them on the device, with random numbers of the host."""

    @torch.inference_mode()
    def __init__(
        self,
        model: ByteModel,
        streams: int,
        config: SamplingConfig,
        dtype: torch.dtype | None = None,
        *,
        fused: bool = True,
    ) -> None:
        self._decoder, self._config = StaticDecoder(model, streams, dtype, fused=fused), config
        self._window = model.config.seq_len
        # What a full context keeps when it slides, as `h2q.generate.slide` does.
        self._keeps = self._window - max(1, self._window // 2)
        # Row t draws the byte behind column t.
        self._numbers = torch.zeros(self._window, streams, dtype=torch.float64, device=self._decoder.device)
        self._temperature = torch.tensor(config.temperature, dtype=torch.float64, device=self._decoder.device)
        self._step = recorded(self._advance, self._decoder.device, self._decoder.position.zero_)
        self._slide = recorded(self._slid, self._decoder.device)

    def write(self, contexts: list[bytes], length: int, randoms: list[Random]) -> Iterator[Tensor]:
        """`length` bytes behind each context, at most T bytes of it, as tensors (B, some) on the host; at first one
        byte, then more at a time. V stands for the first byte that logits which are not finite could not give.

        Stream i takes a number of randoms[i] for every byte, and some ahead.
        """
        window, newest = self._decoder.window, len(contexts[0])
        numbers = self._draw_numbers(newest - 1, randoms)
        self._begin(contexts, numbers)
        drawn, ahead = 1, 1
        while True:
            more = min(ahead, length, self._window - newest + drawn) - drawn
            for _ in range(more):
                self._step()
            newest, drawn = newest + more, drawn + more
            if newest == self._window and length > drawn:
                numbers = self._draw_numbers(self._keeps, randoms)  # While the device is busy.
            yield window[:, newest - drawn + 1 : newest + 1].to("cpu", copy=True)
            length, ahead, drawn = length - drawn, min(2 * ahead, MOST_AHEAD), 0
            if length <= 0:
                return
            if newest == self._window:
                self._take(numbers)
                self._slide()
                newest, drawn = self._keeps + 1, 1

    def _draw_numbers(self, first: int, randoms: list[Random]) -> Tensor:
        """For rows `first` … T − 1, (rows, B); every stream's own in order."""
        rows = range(first, self._window)
        drawn = torch.tensor([[random.random() for _ in rows] for random in randoms], dtype=torch.float64)
        return drawn.t().contiguous()

    @torch.inference_mode()
    def _take(self, numbers: Tensor) -> None:
        self._numbers[self._window - len(numbers) :] = numbers.to(self._numbers.device)

    @torch.inference_mode()
    def _begin(self, contexts: list[bytes], numbers: Tensor) -> None:
        self._take(numbers)
        length = len(contexts[0])
        symbols = torch.frombuffer(bytearray(b"".join(contexts)), dtype=torch.uint8).view(-1, length)
        self._decoder.window[:, :length] = symbols.to(self._decoder.device, torch.int64)
        self._decoder.fill(length)
        self._choose()

    @torch.inference_mode()
    def _advance(self) -> None:
        self._decoder.step()
        self._choose()

    @torch.inference_mode()
    def _slid(self) -> None:
        """A context that is full drops its older part and takes the byte behind it in."""
        kept = self._keeps + 1
        self._decoder.window[:, :kept] = self._decoder.window[:, -kept:].clone()
        self._decoder.fill(kept)
        self._choose()

    def _choose(self) -> None:
        position, window = self._decoder.position, self._decoder.window
        kernels, config = self._decoder.kernels, self._config
        if kernels and config.top_k is None and config.top_p is None and config.min_p is None:
            greedy = config.temperature == 0
            kernels.choose(self._decoder.logits, self._numbers, self._temperature, position, window, greedy=greedy)
            position += 1
            return
        numbers = self._numbers.index_select(0, position.view(1))[0]
        position += 1
        window.index_copy_(1, position.view(1), draw(self._decoder.logits, config, numbers)[:, None])


def recorded(
    work: Callable[[], object], device: torch.device, before: Callable[[], object] = lambda: None
) -> Callable[[], object]:
    """The work as a CUDA graph, to be replayed; on another device itself. It is run twice first, each time behind
    `before`, so that whatever is made only once is there."""
    if device.type != "cuda":
        return work
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                before()
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that fetches batches, may use the device meanwhile.
        with capturing(graph, capture_error_mode="thread_local"):
            work()
    return graph.replay
