"""A model with a state reads bytes one after another, for ever: a byte costs the same after ten and after millions.

Shapes: `D` width of a half (or of the stream), `V` alphabet, `T` bytes of a chunk.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from h2q.alphabet import CARRIED
from h2q.block import Block
from h2q.decode.branches import (
    CachedAttention,
    CachedFeedForward,
    KeysAndValues,
    SteppedState,
    SteppedTables,
    normaliser,
)
from h2q.decode.cache import factored
from h2q.decode.neighbours import SteppedNeighbours
from h2q.decode.products import SharedMatrices
from h2q.errors import require
from h2q.mixers.attention import Attention
from h2q.model import ByteModel

AT_ONCE = 1 << 12
"""Bytes of a long text that go through the model at once."""


class Session:
    """What a model knows of all bytes that it has read. The model must not change meanwhile.

    Beside a state, attention knows the bytes of the chunk that began last, as in training: every `seq_len` bytes it
    starts over.
    """

    @torch.inference_mode()
    def __init__(self, model: ByteModel, products: Literal["auto", "factors", "weights"] = "auto") -> None:
        """`products`: see `h2q.decode.cache.decoder`. Raises: UserError for a model that carries no state."""
        config, weight = model.config, model.token_emb.weight
        require(
            config.carries,
            f"a state needs a model that carries one, and model.mixer is {config.mixer}: train with --model.mixer "
            "state",
        )
        factors = factored(model, products)
        self._model, formed = model, (config.blocks, config.factor) if factors else (config.width,)
        for_mixer, for_ffn = (
            None if model.bank is None else SharedMatrices(model.bank.matrices(rank), factors)
            for rank in (model.mixer_rank, model.ffn_rank)
        )
        self.state = model.new_state(1)[0]
        """(depth, size), with tables and strides more rows (see `ByteModel.new_state`), changed in place."""
        self._position = 0
        self._cache = KeysAndValues(config, formed, weight)
        self._blocks = []
        for block, state in zip(model.blocks, self.state):
            assert isinstance(block, Block)
            attending = [part for part in block.mixer.parts if isinstance(part, Attention)]
            stepping = [part for part in block.mixer.parts if part not in attending]
            self._blocks.append(
                (
                    normaliser(block.norm1, formed),
                    [CachedAttention(part, config, formed, for_mixer) for part in attending],
                    [SteppedState(part, formed, for_mixer, state) for part in stepping],
                    None if block.ffn is None else CachedFeedForward(block, formed, for_ffn),
                )
            )
        self._attends = any(attention for _, attention, *_ in self._blocks)
        self._norm = normaliser(model.norm, (config.dim,))
        self._token = weight.view(config.vocab, config.dim // config.width, *formed).unbind()
        self._stream = torch.empty_like(self._token[0])
        self._halves = self._stream[0], self._stream[-1]
        self._tables = None if model.tables is None else SteppedTables(model.tables, self._stream)
        self._neighbours = None
        if model.strides is not None:
            rows = self.state[config.depth + (model.tables is not None) :]
            self._neighbours = SteppedNeighbours(model.strides, rows.view(-1)[:CARRIED])
        self._logits = weight.new_zeros(config.vocab)

    @torch.inference_mode()
    def read(self, data: Sequence[int]) -> Tensor:
        """Logits (V,) of the byte (or symbol) after these, given all that was read before."""
        chunk, logits = self._model.config.seq_len, self._logits
        while len(data) > 0:
            whole = min(len(data), AT_ONCE)
            if self._attends:
                whole = whole // chunk * chunk if self._position == 0 else 0
            if whole > 1:
                logits = self._read_at_once(data[:whole])
            else:
                whole, logits = 1, self._step(data[0])
            data = data[whole:]
        self._logits = logits
        return logits

    @torch.inference_mode()
    def saved(self) -> dict[str, Tensor]:
        """All that goes on, by name, in host memory of its own, with the sha256 of the model; see `resume`."""
        parts = self._parts(self._position)
        return {name: part.to("cpu", copy=True).contiguous() for name, part in parts.items()}

    @torch.inference_mode()
    def resume(self, saved: dict[str, Tensor]) -> None:
        """Go on from what another session of the same model saved, as if it had not stopped.

        Raises: UserError for what is not of this model.
        """
        keys = saved.get("keys_and_values")
        position = keys.shape[1] if keys is not None and keys.dim() > 1 else 0
        own = self._parts(min(position, self._model.config.seq_len - 1))
        for name in sorted(own.keys() | saved.keys()):
            wanted, found = (_kind(of.get(name)) for of in (own, saved))
            require(
                wanted == found,
                f"the state is of another model: its {name} is {found}, here {wanted}; name the run that it is of",
            )
        (wanted, found), size = (_hex(of["model"]) for of in (own, saved)), 16
        require(
            wanted == found,
            f"the state is of another model, with sha256 {found[:size]}, here {wanted[:size]}: name the run that it is "
            "of",
        )
        require(
            all(bool(part.isfinite().all()) for part in saved.values()), "the state is not finite: begin without it"
        )
        recent = saved["state"][self._model.config.depth :]
        symbols = recent[: self._tables is not None] <= self._model.config.vocab
        symbols = bool((recent >= 0).all() and symbols.all())
        require(symbols, "the state is damaged, its last bytes are none: begin without it")
        for name, part in own.items():
            part.copy_(saved[name])
        self._position = position

    def _parts(self, position: int) -> dict[str, Tensor]:
        """What goes on at a position of the chunk, by name, where it lies."""
        attended = {"keys_and_values": self._cache.all[:, :position]} if self._attends else {}
        return {"model": self._fingerprint, "state": self.state, **attended}

    @cached_property
    def _fingerprint(self) -> Tensor:
        """sha256 of the model's weights, (32,) uint8."""
        digest = hashlib.sha256()
        for name, value in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.cpu().contiguous().view(torch.uint8).numpy())
        return torch.tensor(list(digest.digest()), dtype=torch.uint8)

    def _step(self, byte: int) -> Tensor:
        """One more byte."""
        self._stream.copy_(self._token[byte])
        if self._tables is not None:
            recent = self.state[self._model.config.depth, : self._tables.context]
            symbols = [*map(int, recent.tolist()), byte + 1]
            self._tables.add(symbols)
            recent.copy_(torch.tensor(symbols[1:]))
        beside = None if self._neighbours is None else self._neighbours.add(byte, self._stream.view(-1))
        first, second = self._halves
        views = self._cache.at(self._position) if self._attends else [()] * len(self._blocks)
        for (norm, attending, stepping, ffn), view in zip(self._blocks, views):
            x = norm(second)
            for attention in attending:
                attention.one(x, first, *view)
            for state in stepping:
                state.one(x, first)
            if ffn is None:
                first, second = second, first
            else:
                ffn.one(first, second)
        if self._attends:
            self._position = (self._position + 1) % self._model.config.seq_len
        head, hidden = self._model.head, self._norm(self._stream.view(-1))
        logits = torch.addmv(head.bias, head.weight, hidden)
        if beside is None or self._model.strides is None:
            return logits
        return self._model.strides.raise_near(logits[None, None], hidden[None, None], *beside)[0, 0]

    def _read_at_once(self, data: Sequence[int]) -> Tensor:
        """Many bytes, by the model itself: of one with attention, whole chunks from the beginning of one."""
        model, training = self._model, self._model.training
        model.eval()
        try:
            x = torch.tensor([list(data)], device=model.device)
            logits, state = model(x, state=self.state[None])
        finally:
            model.train(training)
        self.state.copy_(state[0])
        return logits[0, -1]


def _kind(part: Tensor | None) -> str:
    return "missing" if part is None else f"{part.dtype} {list(part.shape)}"


def _hex(digest: Tensor) -> str:
    return bytes(digest.tolist()).hex()
