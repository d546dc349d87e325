"""A backward pass whose memory does not grow with depth: activations are rebuilt from the output of the stack.

A block with halves is invertible: second −= FFN(LN(first)), then first −= Mixer(LN(second)). (Without feed-forward the
halves change places behind each block, and back again.) So the whole stack is one
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
    mixer_rank: int
    ffn_rank: int
    dtype: torch.dtype
    energy: bool
    keep: Tensor | None = None
    """Where a state is forgotten, (B, T), see `h2q.mixers`."""
    ends_swapped: bool = False
    """See `ModelConfig`."""


def run_reversible(
    stack: Stack, first: Tensor, second: Tensor, matrices: Tensor | None, state: Tensor
) -> tuple[Tensor, ...]:
    """Both halves (B, T, D) behind the last block and the state behind the last byte, (B, depth, size) like the one
    before the first; then the energy of each block (none unless `stack.energy`).

    Within the stack the residual stream is carried in float64: there a sum of float32 numbers is exact, so that what is
    subtracted on the way back leaves what was there, bit for bit, but for sums over a range of more than 2^53. In
    float32 each subtraction is off by a rounding, which bf16 products of the next block then enlarge.
    """
    parameters = [parameter for block in stack.blocks for parameter in block.parameters()]
    return _Reversible.apply(stack, first, second, matrices, state, *parameters)  # type: ignore[return-value]


def run_reversible_ref(
    stack: Stack, first: Tensor, second: Tensor, matrices: Tensor | None, state: Tensor
) -> tuple[Tensor, ...]:
    """The same forward pass under plain autograd, which stores what its backward pass needs."""
    narrow, states, energies = first.dtype, [], []
    first, second = first.double(), second.double()
    for_mixer, for_ffn = _active(matrices, stack.mixer_rank), _active(matrices, stack.ffn_rank)
    for block, before in zip(stack.blocks, state.unbind(1)):
        added, after = block.mixer_branch(second.to(narrow), for_mixer, stack.dtype, before, stack.keep)
        first = first + added
        states.append(before if after is None else after)
        if block.ffn is None:
            first, second = second, first
        else:
            second = second + block.ffn_branch(first.to(narrow), for_ffn, stack.dtype)
        if stack.energy:
            energies.append(stream_energy(first.to(narrow), second.to(narrow)))
    if stack.ends_swapped:
        first, second = second, first
    return first.to(narrow), second.to(narrow), torch.stack(states, 1), *energies


class _Reversible(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx, stack: Stack, first: Tensor, second: Tensor, matrices: Tensor | None, state: Tensor, *parameters: Tensor
    ):
        ctx.stack = stack
        with torch.no_grad():
            narrow = first.dtype
            first, second = first.to(torch.float64, copy=True), second.to(torch.float64, copy=True)
            first, second, states, energies = _run(stack, first, second, narrow, matrices, state)
        ctx.save_for_backward(first, second, matrices, state)
        ctx.mark_non_differentiable(*energies)
        # A copy even in a float64 model: what is saved must not be an output that a caller could change.
        return first.to(narrow, copy=True), second.to(narrow, copy=True), torch.stack(states, 1), *energies

    @staticmethod
    def backward(ctx, to_first: Tensor, to_second: Tensor, to_after: Tensor, *_: object):  # type: ignore[override]
        stack: Stack = ctx.stack
        first, second, matrices, state = ctx.saved_tensors
        # Saved tensors and incoming gradients are not ours to change.
        first, second, to_first, to_second = first.clone(), second.clone(), to_first.clone(), to_second.clone()
        to_matrices = None if matrices is None else torch.zeros_like(matrices)
        to_state = torch.empty_like(state)
        if stack.ends_swapped:
            first, second, to_first, to_second = second, first, to_second, to_first
        gradients: dict[nn.Parameter, Tensor] = {}
        with torch.autocast(first.device.type, enabled=False):
            for number, block in reversed(list(enumerate(stack.blocks))):
                if block.ffn is None:
                    first, second, to_first, to_second = second, first, to_second, to_first
                else:
                    assert block.norm2 is not None
                    ffn = _Branch(
                        lambda x, active, _, block=block: (block.ffn_branch(x, active, stack.dtype), None),
                        [*block.norm2.parameters(), *block.ffn.parameters()],
                        stack.ffn_rank,
                    )
                    none = state[:, number, :0]
                    ffn.undo(second, first, to_second, to_first, matrices, to_matrices, gradients, none, none)
                mixer = _Branch(
                    lambda x, active, before, block=block: block.mixer_branch(
                        x, active, stack.dtype, before, stack.keep
                    ),
                    [*block.norm1.parameters(), *block.mixer.parameters()],
                    stack.mixer_rank,
                )
                to_state[:, number] = mixer.undo(
                    first,
                    second,
                    to_first,
                    to_second,
                    matrices,
                    to_matrices,
                    gradients,
                    state[:, number],
                    to_after[:, number],
                )
        ordered = [gradients.get(parameter) for block in stack.blocks for parameter in block.parameters()]
        return None, to_first, to_second, to_matrices, to_state, *ordered


def _run(
    stack: Stack, first: Tensor, second: Tensor, narrow: torch.dtype, matrices: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Run the blocks on the halves, in place; the halves, the state behind each block, and the energies."""
    states, energies = [], []
    for_mixer, for_ffn = _active(matrices, stack.mixer_rank), _active(matrices, stack.ffn_rank)
    for block, before in zip(stack.blocks, state.unbind(1)):
        added, after = block.mixer_branch(second.to(narrow), for_mixer, stack.dtype, before, stack.keep)
        first += added
        states.append(before if after is None else after)
        if block.ffn is None:
            first, second = second, first
        else:
            second += block.ffn_branch(first.to(narrow), for_ffn, stack.dtype)
        if stack.energy:
            energies.append(stream_energy(first.to(narrow), second.to(narrow)))
    if stack.ends_swapped:
        first, second = second, first
    return first, second, states, energies


@dataclass(frozen=True)
class _Branch:
    compute: Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor | None]]
    """Input, matrices and state → what is added, and the state behind."""
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
        state: Tensor,
        to_after: Tensor,
    ) -> Tensor:
        """Undo output += branch(source, state) in place, and add the branch's part to the gradients of all that it
        read; that of the state, given that of the state behind, is returned."""
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        with torch.enable_grad():
            x = source.to(to_output.dtype, copy=True).requires_grad_()
            before = state.detach().requires_grad_()
            active = _active(matrices, self.rank)
            shared = [] if active is None else [active.detach().requires_grad_()]
            added, after = self.compute(x, shared[0] if shared else None, before)
        output -= added.detach()
        results, wanted = [added], [to_output.to(added.dtype)]
        if after is not None:
            results, wanted = [added, after], [*wanted, to_after.to(after.dtype)]
        read = [x, *shared, *trained] if after is None else [x, *shared, *trained, before]
        found = torch.autograd.grad(results, read, wanted)
        to_source += found[0]
        if to_matrices is not None:
            to_matrices[: self.rank] += found[1]
        gradients.update(zip(trained, found[1 + len(shared) :]))
        return to_after if after is None else found[-1]


def _active(matrices: Tensor | None, rank: int) -> Tensor | None:
    return None if matrices is None else matrices[:rank]
