"""Bytes per second of generation: the window recomputed for every byte, and with keys and values, or a state, kept."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch

from h2q.config import SamplingConfig
from h2q.decode.cache import Cached, NextLogits, Recomputing
from h2q.decode.session import Session
from h2q.errors import require
from h2q.generate import stream
from h2q.model import ByteModel
from pipeline.benchmark.timing import interleave, ratio
from pipeline.config import PRESETS


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the sampling of bytes behind a full window, slides included."""

    presets: tuple[str, ...] = ("laptop", "h2q")
    """Models to time."""
    windows: int = 4
    """Bytes written in each round, as so many windows; the recomputing case writes an eighth of them."""
    rounds: int = 5
    """Turns that each case takes; figures are medians over them."""
    device: str = "auto"
    """`auto`: the GPU if there is one."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"rounds must be at least 1, got {self.rounds}")
        require(self.windows >= 1, f"windows must be at least 1, got {self.windows}")
        unknown = sorted(set(self.presets) - set(PRESETS))
        require(not unknown, f"presets are {', '.join(PRESETS)}, got {', '.join(unknown)}")


def run(options: Options) -> dict[str, Any]:
    """Bytes per second of each way, and how many times those of recomputing; `rows` is the table."""
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    rows = [row for preset in options.presets for row in _time(preset, device, options)]
    return {"rows": rows, "rounds": options.rounds, "device": str(device)}


def _time(preset: str, device: torch.device, options: Options) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = ByteModel(PRESETS[preset].model).to(device).eval()
    window = model.config.seq_len
    prompt = bytes(torch.randint(256, (window,)).tolist())
    ways: dict[str, NextLogits] = {
        "recomputed": Recomputing(model),
        "kept, factors": _kept(model, prompt, "factors"),
        "kept, weights": _kept(model, prompt, "weights"),
    }
    lengths = {name: options.windows * window // (8 if name == "recomputed" else 1) for name in ways}
    cases = {name: _write(model, prompt, lengths[name], logits) for name, logits in ways.items()}
    starts = {f"{name}, start": _start(logits, prompt) for name, logits in ways.items()}
    seconds = interleave(cases | starts, options.rounds)
    per_byte = {name: [second / lengths[name] for second in seconds[name]] for name in ways}
    return [
        {
            "model": preset,
            "way": name,
            "bytes/s": 1 / median(per_byte[name]),
            "ms/byte": 1e3 * median(per_byte[name]),
            "× recomputed": ratio(per_byte, "recomputed", name),
            "ms for a window": 1e3 * median(seconds[f"{name}, start"]),
        }
        for name in ways
    ]


def _kept(model: ByteModel, prompt: bytes, products: Literal["factors", "weights"]) -> NextLogits:
    """What goes on from what it knows, where a context is the last one and a byte more. A state reads the prompt, and
    then a byte each time: nothing slides."""
    if not model.config.carries:
        return Cached(model, factored=products == "factors")
    session = Session(model, products)

    def read(context: bytes) -> torch.Tensor:
        return session.read(context if context == prompt else context[-1:])

    return read


def _write(model: ByteModel, prompt: bytes, length: int, logits: NextLogits) -> Callable[[], object]:
    return lambda: bytes(stream(model, prompt, length, SamplingConfig(), next_logits=logits))


def _start(logits: NextLogits, prompt: bytes) -> Callable[[], object]:
    return lambda: logits(prompt)
