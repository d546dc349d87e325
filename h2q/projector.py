"""A projector: a byte decoder that is given the state of one moment of a frozen core, and writes what was there.

Two tasks: the last bytes before the moment, and the next ones behind it. What is read off a state is linear in its
standardised numbers; how much each channel that is read counts is learned for every distance from the moment, so that a
byte far back may lie elsewhere in the state than the last one. The sum is added to the embedded bytes of the decoder,
an independent `ByteModel` of any family and mixer, whose input is what it has written so far.

Shapes: `B` moments, `F` numbers of a state, `T` bytes written, `R` channels read, `D` width of the decoder.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import BoundProjector, ModelConfig
from h2q.mixers import MIXERS
from h2q.model import ByteModel

EACH, AN_OCTAVE = 8, 4
"""So many distances from the moment have weights of their own; of those beyond, so many an octave, and what lies
between two of them goes over from the one to the other: far back neighbours are alike, and learn together."""

FARTHEST = 8.0
"""Standard deviations at which a number of a state is cut off."""


class Projector(nn.Module):
    """States in, logits of the bytes around their moments out.

    `mean` and `spread` (F,) of the core's numbers are buffers, measured once before the training (`standardise`).
    """

    def __init__(self, config: ModelConfig, projector: BoundProjector) -> None:
        super().__init__()
        self.projector = projector
        self.decoder = ByteModel(config)
        self.read = nn.Linear(projector.features, projector.rank)
        self.write = nn.Linear(projector.rank, config.dim)
        basis = torch.block_diag(_hats(projector.last), _hats(projector.next))
        self.basis: Tensor
        self.register_buffer("basis", basis, persistent=False)
        self.gate_emb = nn.Parameter(torch.randn(basis.shape[1], projector.rank) / 2)
        self.distance_emb = nn.Parameter(torch.randn(basis.shape[1], config.dim) * 0.02)
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(projector.features))
        self.register_buffer("spread", torch.ones(projector.features))

    @property
    def config(self) -> ModelConfig:
        """Of the decoder."""
        return self.decoder.config

    @property
    def rank(self) -> int:
        """Active ranks of the decoder."""
        return self.decoder.rank

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def new_state(self, lanes: int) -> Tensor:
        """What a training on so many lanes carries: the core's state before the first byte."""
        core = self.projector.core_model
        return self.mean.new_zeros(lanes, core.rows, core.width if core.carries else 0)

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Measure mean and spread over moments, (B, F)."""
        self.mean.copy_(features.mean(0))
        self.spread.copy_(features.std(0).clamp_min(1e-6))

    def forward(self, features: Tensor, last: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """Moments (B, F), the bytes before them in the order of writing (B, T ≤ last), and those behind (B, T ≤ next),
        int64 → the logits of both, (B, T, V).

        A row that is NaN is a moment without a state: the decoder alone.
        """
        channels = self._channels(features)
        return self._logits(channels, last, ahead=False), self._logits(channels, ahead, ahead=True)

    @torch.no_grad()
    def freely(self, features: Tensor, length: int, *, ahead: bool = False) -> Tensor:
        """The likeliest bytes one after another, each behind those that were written: (B, length ≤ last or next), in
        the order of writing."""
        channels, places = self._channels(features), self._places(length, ahead)
        written = torch.zeros(len(features), 0, dtype=torch.int64, device=features.device)
        stepwise = not MIXERS[self.config.mixer].attends
        state = self.decoder.new_state(len(features)) if stepwise else None
        for at in range(length):
            x = functional.pad(written, (1, 0))
            if state is None:
                logits = self.decoder(x, added=self._added(channels, places[: at + 1]))
            else:
                logits, state = self.decoder(x[:, -1:], state=state, added=self._added(channels, places[at : at + 1]))
            written = torch.cat((written, logits[:, -1:].argmax(-1)), dim=1)
        return written

    def in_order(self, written: Tensor) -> Tensor:
        """Bytes before a moment (B, T) as they are written ↔ as they stand in the text."""
        return written.flip(1) if self.projector.order == "newest-first" else written

    def _channels(self, features: Tensor) -> Tensor:
        known = ((features - self.mean) / self.spread).clamp(-FARTHEST, FARTHEST)
        return self.read(known.nan_to_num(0.0)) * features[:, :1].isfinite()

    def _logits(self, channels: Tensor, text: Tensor, *, ahead: bool) -> Tensor:
        """The decoder's logits of a text, each byte behind those before it; nothing is before the first."""
        x = functional.pad(text[:, :-1], (1, 0))
        return self.decoder(x, added=self._added(channels, self._places(text.shape[1], ahead)))

    def _places(self, length: int, ahead: bool) -> Tensor:
        """For each byte in the order of writing the row of its distance: those of the last bytes, then of the next."""
        rows = torch.arange(length, device=self.device)
        if ahead:
            return self.projector.last + rows
        return rows if self.projector.order == "newest-first" else rows.flip(0)

    def _added(self, channels: Tensor, places: Tensor) -> Tensor:
        """What is added to the embedded bytes, (B, T, D)."""
        basis = self.basis[places]
        counted = channels[:, None] * (1 + basis @ self.gate_emb)
        return (self.write(counted) + basis @ self.distance_emb).to(self.decoder.dtype)


def _hats(length: int) -> Tensor:
    """Weights of each of so many distances on those that have their own, (length, own): linear in their logarithm."""
    own = [float(distance) for distance in range(1, min(length, EACH) + 1)]
    step = 2 ** (1 / AN_OCTAVE)
    while own[-1] < length:
        own.append(own[-1] * step if own[-1] * step**1.5 < length else length)
    at, nodes = torch.arange(1, length + 1).log(), torch.tensor(own).log()
    if len(own) == 1:
        return torch.ones(1, 1)
    above = torch.searchsorted(nodes, at).clamp(1, len(own) - 1)
    share = ((at - nodes[above - 1]) / (nodes[above] - nodes[above - 1])).clamp(0, 1)
    one_hot = functional.one_hot
    return one_hot(above - 1, len(own)) * (1 - share)[:, None] + one_hot(above, len(own)) * share[:, None]
