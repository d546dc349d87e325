"""The mixer `state`: a gated linear recurrence, whose state goes on from chunk to chunk.

Per channel a_t = σ(c_t), s_t = a_t s_{t−1} + (1 − a_t) v_t, y = W_o (s ⊙ silu(z)), where v, c and z are three layers of
the model's family on the same input: a diagonal gated recurrence, as in the RG-LRU (De et al., "Griffin", 2024) and the
minGRU (Feng et al. 2024). What a channel holds halves in a half-life of ln ½ / ln a bytes.

With a rotation the state is quaternions, and each turns as it decays: s_t = a_t u_t s_{t−1} + (1 − a_t) v_t with unit
quaternions u_t, which is a port-Hamiltonian flow: without decay and input |s| stays what it is. `quaternion`: u_t is
exp of half the vector that c_t gives beside the decay, about any axis, so that turns do not commute; `phase`: about one
fixed axis, complex numbers.

Shapes: `B` lanes, `T` bytes of a chunk, `D` width, `m = D / 4` quaternions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.kernels.scan import gated_scan, rotated_scan
from h2q.layers.source import Source, new_layer, project

SHORTEST, LONGEST = 1.0, 88.0
"""Half-lives at the start, in bytes, log-spaced from the one to the other: time constants of about 1.5 and 128."""

TINY = 1e-12
"""Added to a squared angle, so that the axis of no rotation at all has a gradient."""


class GatedState(nn.Module):
    """Four projections around a gated state. The bias of the decays says what a channel remembers without input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rotation, self.state_size = config.rotation, config.width
        self.v_proj, self.c_proj, self.z_proj, self.o_proj = (new_layer(config) for _ in range(4))

    @property
    def parts(self) -> list[nn.Module]:
        return [self]

    @property
    def inward(self) -> list[nn.Module]:
        return [self.v_proj, self.c_proj, self.z_proj]

    @property
    def outward(self) -> nn.Module:
        return self.o_proj

    @torch.no_grad()
    def reset(self) -> None:
        """Half-lives log-spaced, in an order drawn at random; rotations about nothing."""
        bias = self.c_proj.bias
        assert isinstance(bias, Tensor)
        decays = len(bias) if self.rotation == "none" else len(bias) // 4
        half_lives = torch.logspace(math.log10(SHORTEST), math.log10(LONGEST), decays)[torch.randperm(decays)]
        bias[:decays] = torch.logit(0.5 ** (1 / half_lives))

    @torch.no_grad()
    def half_lives(self) -> Tensor:
        """Bytes after which a channel keeps half of what it held, where the input leaves its decay alone: (D,), with a
        rotation (m,)."""
        bias = self.c_proj.bias
        assert isinstance(bias, Tensor)
        decays = len(bias) if self.rotation == "none" else len(bias) // 4
        return -math.log(2) / functional.logsigmoid(bias[:decays])

    def arranged(self, inward: Tensor, bias: Tensor, outward: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        return inward, bias, outward

    def forward(self, x: Tensor, matrices: Source, state: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, T, D), state (B, D) → (B, T, D), the state behind the last byte."""
        p = project(x, self.inward, matrices)
        y, state = self.mix(p, state, keep)
        return project(y, [self.outward], matrices), state

    def mix(self, p: Tensor, state: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """p = [v | c | z] (B, T, 3 D), state (B, D) → what goes outward (B, T, D), the state behind the last byte."""
        return gated_scan(p, state, keep) if self.rotation == "none" else self._rotate(p, state, keep)

    def _rotate(self, p: Tensor, state: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """`gated_scan` with rotations."""
        wide = p.to(state.dtype).transpose(0, 1)
        v, c, z = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in wide.chunk(3, dim=-1))
        a = torch.sigmoid(c[:, :1])
        turn = a * rotation(c[:, 1:], self.rotation)
        if keep is not None:
            turn = turn * keep.t()[:, None, :, None].to(turn.dtype)
        s = rotated_scan(turn.contiguous(), ((1 - a) * v).contiguous(), state.unflatten(-1, (4, -1)).transpose(0, 1))
        y = (s * functional.silu(z)).permute(2, 0, 1, 3).flatten(2)
        return y.to(p.dtype), s[-1].transpose(0, 1).flatten(1)


def rotation(vector: Tensor, kind: str) -> Tensor:
    """Unit quaternions (…, 4, B, m) of rotation vectors (…, 3, B, m): cos ½|g| + sin ½|g| g / |g|. `phase`: the first
    component alone, about the axis i."""
    if kind == "phase":
        angle = vector[..., :1, :, :] / 2
        return torch.cat((angle.cos(), angle.sin(), torch.zeros_like(vector[..., :2, :, :])), dim=-3)
    angle = (vector.square().sum(-3, keepdim=True) + TINY).sqrt()
    return torch.cat(((angle / 2).cos(), (angle / 2).sin() / angle * vector), dim=-3)
