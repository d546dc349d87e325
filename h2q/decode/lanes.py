"""Lanes with a state read a byte at a time, in step: weights are built once, every byte costs the same.

Shapes: `B` lanes, `D` width of a half (or of the stream), `G` halves (1 without), `V` alphabet.
"""

import torch
from torch import Tensor

from h2q.block import Block
from h2q.decode.branches import CachedFeedForward
from h2q.decode.products import SharedMatrices, new_product
from h2q.errors import require
from h2q.mixers.state import GatedState
from h2q.model import ByteModel


class SteppedLanes:
    """What a model knows of B texts that it reads side by side. The model must not change meanwhile."""

    @torch.inference_mode()
    def __init__(self, model: ByteModel, state: Tensor) -> None:
        """`state` (B, depth, size): what is known so far, see `ByteModel.new_state`.

        Raises: UserError for a model whose mixer is not the state alone, or one with strides."""
        require(model.strides is None, "lanes step without neighbours: use a model trained with --model.strides off")
        config, self._model, self.state = model.config, model, state.clone()
        ranks = model.mixer_rank, model.ffn_rank
        shared = [None if model.bank is None else SharedMatrices(model.bank.matrices(rank), False) for rank in ranks]
        self._tokens = model.token_emb.weight.detach().unflatten(-1, (config.dim // config.width, -1))
        self._blocks = []
        for block in model.blocks:
            assert isinstance(block, Block)
            part = block.mixer
            require(
                isinstance(part, GatedState),
                f"lanes step by a state alone, and model.mixer is {config.mixer}: train with --model.mixer state",
            )
            products = new_product(part.inward, shared[0]), new_product([part.outward], shared[0])
            ffn = None if block.ffn is None else CachedFeedForward(block, (config.width,), shared[1])
            self._blocks.append((block.norm1, part, *products, ffn))

    @torch.inference_mode()
    def read(self, x: Tensor) -> Tensor:
        """The next byte of every lane, (B,) int64 → logits (B, V) of the one after it."""
        stream = self._tokens[x]
        if self._model.tables is not None:
            count = self._model.tables.context
            added, recent = self._model.tables(x[:, None], self.state[:, -1, :count].long())
            stream += added
            self.state[:, -1, :count] = recent.to(self.state.dtype)
        stream = stream.transpose(0, 1).contiguous()
        first, second = stream[0], stream[-1]
        for number, (norm, part, inward, outward, ffn) in enumerate(self._blocks):
            y, after = part.mix(inward.all(norm(second)).flatten(1)[:, None], self.state[:, number])
            first += outward.all(y[:, 0])[:, 0]
            self.state[:, number] = after
            if ffn is None:
                first, second = second, first
            else:
                second += ffn.all(first)
        head = self._model.head
        return torch.addmm(head.bias, self._model.norm(stream.transpose(0, 1).flatten(1)), head.weight.t())
