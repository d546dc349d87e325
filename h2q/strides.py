"""Pictures and sounds in a stream of bytes: their neighbours at the input, and a prediction from them at the logits.

What stands beside the next byte (`h2q.neighbours`) is added to the embedded byte as numbers; and behind the blocks the
logits of the values near a linear prediction rise (`h2q.kernels.peaks`). Weights of the prediction, how far off it is
and how quickly the tails fall follow the stream at the byte. Where there are no neighbours, in text, in headers and
before the first marker, the logits stay as they are.

Prediction from the pixels around: Weinberger et al., LOCO-I (2000); weights that follow the surroundings: Wu & Memon,
CALIC (1997); linear prediction of samples: FLAC.

Shapes: `B` lanes, `T` bytes, `P` taps, `D` width of the stream, `K` peaks, `V` alphabet.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.kernels.peaks import add_peaks
from h2q.neighbours import END, GREY, NONE, RED, ROLES, TAPS, Neighbours, new_taps

PEAKS = 2
_SPREAD = 1.5
"""Logarithm of how far off a prediction is at the start."""
_POWER = 1.0
_SLOWLY = (0.03, 0.2)
"""What the stream says of the weights, and of spread and power, counts so much: a step moves them less."""
_BOUND = 20
"""How far outside the values of a byte a prediction may lie."""
_STD = 0.02
FEATURES = 3 * TAPS + 4


class Strides(nn.Module):
    """What a model does with neighbours."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.role_emb = nn.Parameter(torch.zeros(ROLES, width))
        self.inward = nn.Linear(FEATURES, width)
        self.outward = nn.Linear(width + FEATURES, PEAKS * (TAPS + 2))
        self.weights = nn.Parameter(torch.zeros(ROLES, PEAKS, TAPS))
        """Of the taps' differences to the nearest one."""
        self.shapes = nn.Parameter(torch.zeros(ROLES, PEAKS, 2))
        """Spread and power, before the stream's part."""
        self.predicted: Tensor
        self.scale: Tensor
        self.taps: Tensor
        self.register_buffer("taps", new_taps(), persistent=False)
        self.register_buffer("scale", torch.tensor([_SLOWLY[0]] * TAPS + [_SLOWLY[1]] * 2), persistent=False)
        self.register_buffer(
            "predicted", torch.ones(ROLES).index_fill(0, torch.tensor((NONE, END)), 0), persistent=False
        )

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the parameters as they start: the pixel above and what changed there, other channels alike."""
        for weight, std in ((self.role_emb, _STD), (self.inward.weight, _STD), (self.outward.weight, _STD)):
            nn.init.normal_(weight, std=std)
        nn.init.zeros_(self.inward.bias)
        nn.init.zeros_(self.outward.bias)
        self.weights.zero_()
        self.weights[GREY : RED + 3, :, 1:3] = torch.tensor((0.75, -0.5))
        self.weights[RED + 1 : RED + 3, :, 8:10] = torch.tensor((0.5, -0.5))
        self.shapes.copy_(torch.tensor((_SPREAD, _POWER)).expand_as(self.shapes))

    def features(self, neighbours: Neighbours) -> Tensor:
        """Numbers of moderate size that say what is around, (B, T, F); zero where there are no neighbours."""
        values, apart = neighbours.values, neighbours.values - neighbours.values[..., :1]
        steps = torch.stack((apart[..., 2], values[..., 1] - values[..., 2], values[..., 1] - values[..., 3]), dim=-1)
        found = torch.cat(
            (
                torch.tanh(apart / 4),
                apart.sign() * apart.abs().log1p() / 3,
                (values / 128 - 1).clamp(-1, 1),
                steps.abs().log1p() / 3,
                apart.abs().sum(-1, keepdim=True).log1p() / 4,
            ),
            dim=-1,
        )
        return (found * self.predicted[neighbours.role, None]).to(self.inward.weight.dtype)

    def inputs(self, neighbours: Neighbours, features: Tensor) -> Tensor:
        """What is added to the embedded bytes, (B, T, D)."""
        return self.inward(features) + functional.embedding(neighbours.role, self.role_emb)

    def raise_near(self, logits: Tensor, hidden: Tensor, neighbours: Neighbours, features: Tensor) -> Tensor:
        """Logits (B, T, V) and the stream behind the blocks (B, T, D) → logits."""
        own = self.outward(torch.cat((hidden.to(features.dtype), features), dim=-1)).unflatten(-1, (PEAKS, -1))
        own = own * self.scale
        role, values = neighbours.role, neighbours.values.to(own.dtype)
        nearest = values[..., :1]
        weights = _of(self.weights, role) + own[..., :TAPS]
        mean = nearest + (weights * (values - nearest).unsqueeze(-2)).sum(-1)
        spread, power = (_of(self.shapes, role) + own[..., TAPS:]).unbind(-1)
        power = functional.softplus(power) * self.predicted[role, None].to(own.dtype)
        return add_peaks(logits, mean.clamp(-_BOUND, 255 + _BOUND), (2 * spread.clamp(-1.5, 5.5)).exp(), power)


def _of(table: Tensor, role: Tensor) -> Tensor:
    """The rows of a table (roles, …) for roles (B, T), (B, T, …)."""
    return functional.embedding(role, table.flatten(1)).unflatten(-1, table.shape[1:])
