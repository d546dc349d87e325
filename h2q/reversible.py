"""A backward pass whose memory does not grow with depth: activations are rebuilt from the output of the stack.

A block with halves is invertible: second −= FFN(LN(first)), then first −= Attn(LN(second)). So the whole stack is one
autograd function that keeps its output only, walks back block by block, and hands all gradients to autograd at once:
hooks of wrappers fire once for each parameter, also for the shared bank. (Gomez et al. 2017, The Reversible Residual
Network.) Shapes: `B` lanes, `T` bytes of context, `D` width of a half, `R` rank, `S` blocks of a Kronecker product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import Function

from h2q.block import Block, stream_energy


@dataclass(frozen=True)
class Stack:
    """The blocks, and how they compute."""

    blocks: list[Block]
    attention_rank: int
    ffn_rank: int
    dtype: torch.dtype
    energy: bool


def run_reversible(stack: Stack, first: Tensor, second: Tensor, matrices: Tensor | None) -> tuple[Tensor, ...]:
    """Both halves (B, T, D) behind the last block, then the energy of each block (none unless `stack.energy`).

    Within the stack the residual stream is carried in float64: there a sum of float32 numbers is exact, so that what is
    subtracted on the way back leaves what was there, bit for bit, but for sums over a range of more than 2^53. In
    float32 each subtraction is off by a rounding, which bf16 products of the next block then enlarge.
    """
    parameters = [parameter for block in stack.blocks for parameter in block.parameters()]
    return _Reversible.apply(stack, first, second, matrices, *parameters)  # type: ignore[return-value]


def run_reversible_ref(stack: Stack, first: Tensor, second: Tensor, matrices: Tensor | None) -> tuple[Tensor, ...]:
    """The same forward pass under plain autograd, which stores what its backward pass needs."""
    narrow, energies = first.dtype, []
    first, second = first.double(), second.double()
    for block in stack.blocks:
        first = first + block.attention_branch(second.to(narrow), _active(matrices, stack.attention_rank), stack.dtype)
        second = second + block.ffn_branch(first.to(narrow), _active(matrices, stack.ffn_rank), stack.dtype)
        if stack.energy:
            energies.append(stream_energy(first.to(narrow), second.to(narrow)))
    return first.to(narrow), second.to(narrow), *energies


class _Reversible(Function):
    @staticmethod
    def forward(ctx, stack: Stack, first: Tensor, second: Tensor, matrices: Tensor | None, *parameters: Tensor):  # type: ignore[override]
        ctx.stack = stack
        with torch.no_grad():
            narrow, energies = first.dtype, []
            first, second = first.to(torch.float64, copy=True), second.to(torch.float64, copy=True)
            for block in stack.blocks:
                first += block.attention_branch(second.to(narrow), _active(matrices, stack.attention_rank), stack.dtype)
                second += block.ffn_branch(first.to(narrow), _active(matrices, stack.ffn_rank), stack.dtype)
                if stack.energy:
                    energies.append(stream_energy(first.to(narrow), second.to(narrow)))
        ctx.save_for_backward(first, second, matrices)
        ctx.mark_non_differentiable(*energies)
        # A copy even in a float64 model: what is saved must not be an output that a caller could change.
        return first.to(narrow, copy=True), second.to(narrow, copy=True), *energies

    @staticmethod
    def backward(ctx, to_first: Tensor, to_second: Tensor, *_: object):  # type: ignore[override]
        stack: Stack = ctx.stack
        first, second, matrices = ctx.saved_tensors
        # Saved tensors and incoming gradients are not ours to change.
        first, second, to_first, to_second = first.clone(), second.clone(), to_first.clone(), to_second.clone()
        to_matrices = None if matrices is None else torch.zeros_like(matrices)
        gradients: dict[nn.Parameter, Tensor] = {}
        with torch.autocast(first.device.type, enabled=False):
            for block in reversed(stack.blocks):
                ffn = _Branch(block.ffn_branch, [*block.norm2.parameters(), *block.ffn.parameters()], stack.ffn_rank)
                ffn.undo(second, first, to_second, to_first, matrices, to_matrices, gradients, stack.dtype)
                attention = _Branch(
                    block.attention_branch,
                    [*block.norm1.parameters(), *block.attention.parameters()],
                    stack.attention_rank,
                )
                attention.undo(first, second, to_first, to_second, matrices, to_matrices, gradients, stack.dtype)
        ordered = [gradients.get(parameter) for block in stack.blocks for parameter in block.parameters()]
        return None, to_first, to_second, to_matrices, *ordered


@dataclass(frozen=True)
class _Branch:
    compute: Callable[[Tensor, Tensor | None, torch.dtype], Tensor]
    parameters: list[nn.Parameter]
    rank: int

    def undo(
        self,
        output: Tensor,
        source: Tensor,
        to_output: Tensor,
        to_source: Tensor,
        matrices: Tensor | None,
        to_matrices: Tensor | None,
        gradients: dict[nn.Parameter, Tensor],
        dtype: torch.dtype,
    ) -> None:
        """Undo output += branch(source) in place, and add the branch's part to the gradients of all that it read."""
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        with torch.enable_grad():
            x = source.to(to_output.dtype, copy=True).requires_grad_()
            active = _active(matrices, self.rank)
            shared = [] if active is None else [active.detach().requires_grad_()]
            added = self.compute(x, shared[0] if shared else None, dtype)
        output -= added.detach()
        found = torch.autograd.grad(added, [x, *shared, *trained], to_output.to(added.dtype))
        to_source += found[0]
        if to_matrices is not None:
            to_matrices[: self.rank] += found[1]
        gradients.update(zip(trained, found[1 + len(shared) :]))


def _active(matrices: Tensor | None, rank: int) -> Tensor | None:
    return None if matrices is None else matrices[:rank]
