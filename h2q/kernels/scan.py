"""Gated linear recurrences over the positions of a chunk, with backward passes of their own.

Shapes: `T` bytes of a chunk, `B` lanes, `D` channels, `m = D / 4` quaternions. Everything runs along the first axis,
positions, so that one step is one contiguous block. A CPU takes the steps one after another, each one call on all lanes
and channels; a GPU composes neighbours, then pairs of pairs, in log₂ T rounds and no loop over T (Hillis and Steele,
"Data parallel algorithms", 1986): with no quotient of decays in it, nothing can overflow. With Triton the scan without
rotation is one kernel, which composes within its registers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from h2q.kernels.triton_there import takes_triton
from h2q.quaternion import hamilton_product

SCAN_STEPS, SCAN_COLUMNS = 64, 32
"""Positions and channels that a program of the fused scan holds at a time."""

Multiply = Callable[[Tensor, Tensor], Tensor]


def gated_scan(p: Tensor, start: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The gated state: p = [v | c | z] (B, T, 3 D), values, decays, gates; start (B, D) → y (B, T, D), end (B, D).

    a = σ(c), s_t = a_t s_{t−1} + (1 − a_t) v_t, y = s · silu(z). Where keep (B, T) is 0, s_{t−1} counts as zero. The
    state is computed in float32 at least, y is in the dtype of p.
    """
    fused = takes_triton(p.device) and start.dtype == torch.float32
    return (_FusedScan if fused else _GatedScan).apply(p, start, keep)  # type: ignore[return-value]


def gated_scan_ref(p: Tensor, start: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`gated_scan` byte by byte, as the formula stands."""
    state, rows = start, []
    for t in range(p.shape[1]):
        v, c, z = p[:, t].to(start.dtype).chunk(3, dim=-1)
        a = torch.sigmoid(c)
        state = a * (state if keep is None else state * keep[:, t, None]) + (1 - a) * v
        rows.append(state * z * torch.sigmoid(z))
    return torch.stack(rows, dim=1).to(p.dtype), state


def rotated_scan(q: Tensor, u: Tensor, start: Tensor) -> Tensor:
    """s_t = q_t s_{t−1} + u_t with quaternions: q, u (T, 4, B, m), start (4, B, m) → s (T, 4, B, m)."""
    return _RotatedScan.apply(q, u, start)  # type: ignore[return-value]


def rotated_scan_ref(q: Tensor, u: Tensor, start: Tensor) -> Tensor:
    """`rotated_scan` step by step, as the formula stands."""
    state, rows = start, []
    for q_t, u_t in zip(q, u):
        state = quaternion_product(q_t, state) + u_t
        rows.append(state)
    return torch.stack(rows)


class _GatedScan(Function):
    @staticmethod
    def forward(ctx, p: Tensor, start: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.set_materialize_grads(False)
        v, c, z = _parts(p)
        a = torch.sigmoid(c, out=torch.empty_like(v, memory_format=torch.contiguous_format))
        decay = a if keep is None else a * keep.t().unsqueeze(-1).to(a.dtype)
        s = recurrence(decay, torch.addcmul(v, a, v, value=-1, out=torch.empty_like(a)), start.to(a.dtype))
        ctx.save_for_backward(p, start, keep, a, s)
        y = torch.sigmoid(z).mul_(z).mul_(s).transpose(0, 1).to(p.dtype)
        return y, s[-1].to(start.dtype, copy=True)

    @staticmethod
    def backward(ctx, g: Tensor | None, to_end: Tensor | None):  # type: ignore[override]
        p, start, keep, a, s = ctx.saved_tensors
        v, _, z = _parts(p)
        g = torch.zeros_like(s) if g is None else g.to(s.dtype).transpose(0, 1)
        gate = torch.sigmoid(z)
        to_state = torch.mul(gate * z, g, out=torch.empty_like(s))
        if to_end is not None:
            to_state[-1] += to_end.to(s.dtype)
        decay = a if keep is None else a * keep.t().unsqueeze(-1).to(a.dtype)
        to_state = adjoint(decay, to_state)
        to_p = torch.empty(p.shape, dtype=s.dtype, device=p.device)
        to_v, to_c, to_z = (part.transpose(0, 1) for part in to_p.chunk(3, dim=-1))
        # d silu(z) = σ(z) (1 + z (1 − σ(z)))
        torch.mul((1 - gate).mul_(z).add_(1).mul_(gate).mul_(s), g, out=to_z)
        open_ = 1 - a
        torch.mul(open_, to_state, out=to_v)
        before = torch.cat((start.to(s.dtype)[None], s[:-1]))
        before = before if keep is None else before.mul_(keep.t().unsqueeze(-1))
        torch.mul(before.sub_(v).mul_(a).mul_(open_), to_state, out=to_c)
        return to_p.to(p.dtype), (decay[0] * to_state[0]).to(start.dtype), None


class _FusedScan(Function):
    """`_GatedScan` in one Triton kernel forward and one backward: a program scans some channels of a lane, some tens of
    bytes at a time."""

    @staticmethod
    def forward(ctx, p: Tensor, start: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        from h2q.kernels import triton_training

        ctx.set_materialize_grads(False)
        p, start = p.contiguous(), start.contiguous()
        keep = None if keep is None else keep.contiguous()
        (lanes, length, _), width = p.shape, start.shape[-1]
        y = p.new_empty(lanes, length, width)
        states, end = start.new_empty(lanes, length, width), torch.empty_like(start)
        kernel: Any = triton_training.gated_scan
        kernel[(lanes, -(-width // SCAN_COLUMNS))](
            p, start, p if keep is None else keep, y, states, end, length, width,
            KEEP=keep is not None, STEPS=SCAN_STEPS, COLUMNS=SCAN_COLUMNS,
        )  # fmt: skip
        ctx.save_for_backward(p, start, keep, states)
        return y, end

    @staticmethod
    def backward(ctx, g: Tensor | None, to_end: Tensor | None):  # type: ignore[override]
        from h2q.kernels import triton_training

        p, start, keep, states = ctx.saved_tensors
        (lanes, length, _), width = p.shape, start.shape[-1]
        g = p.new_zeros(states.shape) if g is None else g.contiguous()
        to_p, to_start = torch.empty_like(p), torch.empty_like(start)
        kernel: Any = triton_training.gated_scan_backward
        kernel[(lanes, -(-width // SCAN_COLUMNS))](
            p, start, p if keep is None else keep, states, g, start if to_end is None else to_end.contiguous(),
            to_p, to_start, length, width, -(-length // SCAN_STEPS),
            KEEP=keep is not None, END=to_end is not None, STEPS=SCAN_STEPS, COLUMNS=SCAN_COLUMNS,
        )  # fmt: skip
        return to_p, to_start, None


class _RotatedScan(Function):
    @staticmethod
    def forward(ctx, q: Tensor, u: Tensor, start: Tensor) -> Tensor:  # type: ignore[override]
        s = rotated_recurrence(q, u, start)
        ctx.save_for_backward(q, start, s)
        return s

    @staticmethod
    def backward(ctx, g: Tensor):  # type: ignore[override]
        q, start, s = ctx.saved_tensors
        # The inner product of p x and y is that of x and p̄ y.
        turned = _conjugate(q)
        to_u = rotated_recurrence(
            functional.pad(turned[1:].flip(0), (0, 0, 0, 0, 0, 0, 1, 0)), g.flip(0), torch.zeros_like(start)
        ).flip(0)
        before = torch.cat((start[None], s[:-1]))
        return quaternion_product(to_u, _conjugate(before)), to_u, quaternion_product(turned[0], to_u[0])


def _parts(p: Tensor) -> tuple[Tensor, ...]:
    """(B, T, 3 D) → three views (T, B, D), in float32 at least."""
    wide = p.to(torch.promote_types(p.dtype, torch.float32))
    return tuple(part.transpose(0, 1) for part in wide.chunk(3, dim=-1))


def takes_steps(device: torch.device) -> bool:
    """Whether the steps go one after another here: where a call costs less than what it computes."""
    return device.type == "cpu"


def recurrence(a: Tensor, u: Tensor, start: Tensor) -> Tensor:
    """s_t = a_t s_{t−1} + u_t elementwise: a, u (T, …), start (…) → s (T, …). May overwrite u."""
    if not takes_steps(a.device):
        return compose(a, u, start, torch.mul)
    before = start
    for a_t, s_t in zip(a.unbind(), u.unbind()):
        before = s_t.addcmul_(a_t, before)
    return u


def adjoint(a: Tensor, g: Tensor) -> Tensor:
    """The recurrence backwards: G_t = g_t + a_{t+1} G_{t+1}. May overwrite g."""
    if not takes_steps(a.device):
        shifted = torch.cat((torch.zeros_like(a[:1]), a[1:].flip(0)))
        return compose(shifted, g.flip(0), torch.zeros_like(g[0]), torch.mul).flip(0)
    rates, steps = a.unbind(), g.unbind()
    for t in range(len(rates) - 2, -1, -1):
        steps[t].addcmul_(rates[t + 1], steps[t + 1])
    return g


def rotated_recurrence(q: Tensor, u: Tensor, start: Tensor) -> Tensor:
    """s_t = q_t s_{t−1} + u_t for quaternions, see `rotated_scan`."""
    if not takes_steps(q.device):
        return compose(q, u, start, quaternion_product)
    a, b, c, d = q.unbind(1)
    matrices = torch.stack((a, -b, -c, -d, b, a, -d, c, c, d, a, -b, d, -c, b, a), dim=1).unflatten(1, (4, 4))
    s, terms, before = torch.empty_like(u), torch.empty_like(matrices[0]), start
    for matrix, u_t, s_t in zip(matrices.unbind(), u.unbind(), s.unbind()):
        torch.sum(torch.mul(matrix, before, out=terms), 1, out=s_t)
        before = s_t.add_(u_t)
    return s


def compose(p: Tensor, u: Tensor, start: Tensor, multiply: Multiply) -> Tensor:
    """s_t = p_t s_{t−1} + u_t for an associative product, in log₂ T rounds: p, u (T, …), start (…) → s (T, …).

    Behind round k the pair at t is what bytes t − 2ᵏ + 1 … t do to a state together: (p, u) after (p', u') is
    (p p', p u' + u).
    """
    u = torch.cat((u[:1] + multiply(p[:1], start[None]), u[1:]))
    reach = 1
    while reach < len(u):
        later = p[reach:]
        u = torch.cat((u[:reach], u[reach:] + multiply(later, u[:-reach])))
        p = torch.cat((p[:reach], multiply(later, p[:-reach])))
        reach *= 2
    return u


def quaternion_product(p: Tensor, q: Tensor) -> Tensor:
    """Products of quaternions whose components lie on the axis before the last two."""
    return hamilton_product(p.movedim(-3, -1), q.movedim(-3, -1)).movedim(-1, -3)


def _conjugate(q: Tensor) -> Tensor:
    return torch.cat((q[..., :1, :, :], -q[..., 1:, :, :]), dim=-3)
