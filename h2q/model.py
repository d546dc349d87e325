"""The byte-level language model: embed → blocks → logits. All initialisation is here.

Shapes: `B` lanes, `T` bytes of context, `D` width of the residual stream, `V` alphabet, `R` rank, `S` blocks of a
Kronecker product, `s = S / 4`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.alphabet import CARRIED
from h2q.bank import StructureBank
from h2q.block import Block, prepare_weights, stream_energy
from h2q.config import ModelConfig
from h2q.errors import require
from h2q.kernels.linear import linear
from h2q.kernels.norm import add_norm
from h2q.layers.source import by_factors
from h2q.neighbours import Neighbours, look
from h2q.reversible import Stack, run_reversible
from h2q.strides import Strides
from h2q.tables import NgramTables

EMBEDDING_STD = 0.02


class ByteModel(nn.Module):
    """Bytes in, logits of the next byte out: H2Q, QRLM or their dense twin, as the config says.

    Drawn from torch's global random state: seed it first. Runs under `torch.autocast`: matrix products in its dtype,
    parameters, residual stream and logits in float32.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_emb = nn.Embedding(config.vocab, config.dim)
        self.tables = NgramTables(config.tables, config.width) if config.tables else None
        self.strides = Strides(config.dim) if config.strides == "auto" else None
        learned = config.order == "learned"
        self.pos_emb: Any = nn.Parameter(torch.zeros(1, config.seq_len, config.dim)) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.bank = None if config.kind != "hamilton" else StructureBank(config.storage_rank, config.blocks)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim) if config.final_norm else nn.Identity()
        self.head = nn.Linear(config.dim, config.vocab)
        if config.tied_embeddings:
            self.head.weight = self.token_emb.weight
        # Active ranks of the mixers' and of the feed-forward layers: a buffer, so that a state_dict carries them, and
        # integers, so that a step reads them without waiting for the device.
        self.ranks: Tensor
        self.register_buffer("ranks", torch.tensor([config.fixed_rank, config.fixed_rank]))
        self.mixer_rank = self.ffn_rank = config.fixed_rank
        self.state_size: int = self._blocks[0].mixer.state_size
        self.register_load_state_dict_post_hook(_read_ranks)
        if not self.token_emb.weight.is_meta:
            initialise(self)

    @property
    def rank(self) -> int:
        """Active ranks of the bank: as many as the layer with most of them."""
        return max(self.mixer_rank, self.ffn_rank)

    def set_ranks(self, mixer: int, ffn: int) -> None:
        """Make so many ranks active in the layers of the mixers and in the feed-forward layers."""
        self.mixer_rank, self.ffn_rank = mixer, ffn
        self.ranks.copy_(torch.tensor([mixer, ffn]))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.token_emb.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.token_emb.weight.dtype

    def new_state(self, lanes: int) -> Tensor:
        """The state before the first byte, (lanes, depth, size): zero. Size 0 in a model that carries none; where there
        are tables, one row more, in which the symbols of the last bytes stand (see `h2q.tables`), and with strides
        some more (see `h2q.neighbours`)."""
        return self.token_emb.weight.new_zeros(lanes, self.config.rows, self.state_size)

    def half_lives(self) -> Tensor | None:
        """Bytes after which the channels of each block's state keep half of what they held, (depth, channels), where
        the input leaves their decay alone; None in a model whose mixers have none."""
        found = [
            part.half_lives() for block in self._blocks for part in block.mixer.parts if hasattr(part, "half_lives")
        ]
        return torch.stack(found) if found else None

    def forward(
        self,
        x: Tensor,
        *,
        energy: bool = False,
        with_stream: bool = False,
        state: Tensor | None = None,
        reset: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Bytes (B, T), int64 → logits (B, T, V) in float32.

        With `energy` then (depth,), detached: the mean L2 norm of the residual stream over positions after each block.
        With `with_stream` then that stream behind the last block, before the final norm, (B, T, D).
        With `state`, what is known of the bytes before (see `new_state`), then the state behind the last byte, through
        which gradients flow as through the first. Where `reset` (B, T) is true all before the byte is forgotten.
        `added` (B, T, D) is added to the embedded bytes: what else is known of them.
        Raises: UserError for another dtype or shape, and for more bytes than there are positions.
        """
        self._check(x, state)
        dtype = _product_dtype(x.device, self.dtype)
        with torch.autocast(x.device.type, enabled=False):
            before = self.new_state(len(x)) if state is None else state
            before, recent = before.tensor_split([self.config.depth], dim=1)
            stream, recent = self._embed(x, recent, reset)
            stream, beside, recent = self._look(x, stream, recent, reset)
            if self.pos_emb is not None:
                stream = stream + self.pos_emb[:, : x.shape[1]]
            stream = stream if added is None else stream + added
            keep = None if reset is None else 1 - reset.to(self.dtype)
            stream, after, energies = self._run_blocks(self.dropout(stream), dtype, energy, before, keep)
            norm = self.norm
            hidden = add_norm(stream, None, norm, dtype)[1] if isinstance(norm, nn.LayerNorm) else stream.to(dtype)
            logits = linear(hidden, self.head.weight.to(dtype), self.head.bias.to(dtype))
            logits = logits.to(self.dtype)
            if beside is not None and self.strides is not None:
                logits = self.strides.raise_near(logits, hidden, *beside)
        results = (
            logits,
            *([torch.stack(energies)] if energy else []),
            *([stream] if with_stream else []),
            *([] if state is None else [torch.cat((after, recent), dim=1)]),
        )
        return results if len(results) > 1 else logits

    def _embed(self, x: Tensor, recent: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bytes (B, T), the rows of the state in which the symbols before them stand (B, n, size), none where it is not
        carried → their embeddings (B, T, D), and those rows, the first behind them."""
        stream = self.token_emb(x)
        if self.tables is None:
            return stream, recent
        count = self.tables.context
        if recent.shape[1]:
            added, symbols = self.tables(x, recent[:, 0, :count].long(), reset)
            own = functional.pad(symbols, (0, recent.shape[2] - count))[:, None].to(recent.dtype)
            recent = torch.cat((own, recent[:, 1:]), dim=1)
        else:
            added, _ = self.tables(x, x.new_zeros(len(x), count), reset)
        return (stream.unflatten(-1, (-1, self.config.width)) + added.unsqueeze(-2)).flatten(-2), recent

    def _look(
        self, x: Tensor, stream: Tensor, recent: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, tuple[Neighbours, Tensor] | None, Tensor]:
        """Bytes (B, T), the stream (B, T, D), the rows of the state behind those of the blocks (B, n, size), none where
        it is not carried → the stream with what stands beside the next bytes; that, and what it says; those rows."""
        if self.strides is None:
            return stream, None, recent
        first, rows = self.tables is not None, recent[:, self.tables is not None :].flatten(1)
        carries = self.config.carries
        neighbours, carried = look(x, rows[:, :CARRIED] if carries else None, reset, self.strides.taps)
        if carried is not None:
            carried = functional.pad(carried, (0, rows.shape[1] - CARRIED)).unflatten(1, (-1, recent.shape[2]))
            recent = torch.cat((recent[:, :first], carried), dim=1)
        features = self.strides.features(neighbours)
        return stream + self.strides.inputs(neighbours, features), (neighbours, features), recent

    def _run_blocks(
        self, stream: Tensor, dtype: torch.dtype, energy: bool, state: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        matrices = None if self.bank is None else self.bank.matrices(self.rank)
        blocks = self._blocks
        if self.config.memory == "reversible":
            stack = Stack(blocks, self.mixer_rank, self.ffn_rank, dtype, energy, keep, self.config.ends_swapped)
            first, second = stream.chunk(2, dim=-1)
            first, second, state, *energies = run_reversible(stack, first, second, matrices, state)
            return torch.cat((first, second), dim=-1), state, energies
        for_mixer = None if matrices is None else matrices[: self.mixer_rank]
        for_ffn = None if matrices is None else matrices[: self.ffn_rank]
        if matrices is not None and matrices.device.type == "cuda" and not by_factors(blocks[0].mixer.parts[0].inward):
            ranks = matrices[: self.mixer_rank], matrices[: self.ffn_rank]
            for_mixer = for_ffn = prepare_weights(blocks, *ranks, dtype)
        energies, states, halves = [], [], self.config.halves
        # A branch reads one stream, or half, and adds to the other, which the next branch reads: so what it adds waits
        # until then, and is `added` in the same go as the stream is normalised.
        other, reading = stream.chunk(2, dim=-1) if halves else (stream, stream)
        added = None
        for block, before in zip(blocks, state.unbind(1)):
            reading, normed = add_norm(reading, added, block.norm1, dtype)
            added, after = block.mixer(normed, for_mixer, before, keep)
            states.append(before if after is None else after)
            if halves:
                other, reading = reading, other
            if block.ffn is not None and block.norm2 is not None:
                reading, normed = add_norm(reading, added, block.norm2, dtype)
                added = block.ffn(normed, for_ffn)
                if halves:
                    other, reading = reading, other
            if energy:
                energies.append(stream_energy(reading + added, other if halves else None))
        reading = reading if added is None else reading + added
        ends = (reading, other) if self.config.ends_swapped else (other, reading)
        stream = torch.cat(ends, dim=-1) if halves else reading
        return stream, torch.stack(states, dim=1), energies

    @property
    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _check(self, x: Tensor, state: Tensor | None) -> None:
        require(x.dtype == torch.int64, f"bytes must be an int64 tensor, got {x.dtype}")
        require(x.dim() == 2, f"bytes must be (B, T), got shape {tuple(x.shape)}")
        require(x.numel() > 0, f"the batch is empty: shape {tuple(x.shape)}")
        require(
            x.shape[1] <= (self.config.longest or x.shape[1]),
            f"a window of {x.shape[1]} bytes is longer than the positions, model.seq_len = {self.config.seq_len}",
        )
        wanted = tuple(self.new_state(len(x)).shape)
        require(
            state is None or state.shape == wanted,
            f"the state must be (lanes, depth, size) = {wanted}, got {None if state is None else tuple(state.shape)}: "
            "it is of another model or another number of lanes; begin with new_state(lanes)",
        )


def _product_dtype(device: torch.device, fallback: torch.dtype) -> torch.dtype:
    """The dtype of matrix products: autocast's where it is on."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return fallback


def _read_ranks(model: nn.Module, _: object) -> None:
    assert isinstance(model, ByteModel)
    model.mixer_rank, model.ffn_rank = (int(rank) for rank in model.ranks.tolist())


@torch.no_grad()
def initialise(model: ByteModel) -> None:
    """Draw all parameters, as `config.init` says; ranks that growth has not reached stay zero in bank and factors."""
    config = model.config
    unit = config.init == "unit"
    nn.init.normal_(model.token_emb.weight, std=EMBEDDING_STD if unit else 1.0)
    if model.pos_emb is None:
        pass
    elif config.positions == "sinusoids":
        code = sinusoids(config.seq_len, config.width) * (EMBEDDING_STD * 2**0.5)  # As strong as the bytes beside it.
        model.pos_emb.copy_(code.repeat(1, config.dim // config.width))
    else:
        nn.init.normal_(model.pos_emb, std=EMBEDDING_STD)
    for table in model.tables.weights if model.tables is not None else ():
        nn.init.normal_(table, std=EMBEDDING_STD if unit else 1.0)
    if model.strides is not None:
        model.strides.reset()
    if not config.tied_embeddings:
        model.head.reset_parameters()
    nn.init.zeros_(model.head.bias)
    if model.bank is not None:
        for rank in range(config.fixed_rank):
            model.bank.components[rank] = component(config, rank)
    for block in model.blocks:
        assert isinstance(block, Block)
        inward = [layer for part in block.mixer.parts for layer in part.inward]
        outward = [*(part.outward for part in block.mixer.parts), *block.hidden[1:]]
        for layer in [*inward, *block.hidden[:1], *outward]:
            layer.initialise(0.0 if unit and layer in outward else 1.0)
        block.mixer.reset()


def sinusoids(length: int, width: int) -> Tensor:
    """Positions as sines and cosines, (T, D), of frequencies that fall geometrically from one radian a byte to half a
    turn a window. Vaswani et al., "Attention is all you need" (2017), section 3.5, with wavelengths that fit."""
    pairs = -(-width // 2)
    frequencies = (math.pi / length) ** (torch.arange(pairs) / max(1, pairs - 1))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


def component(config: ModelConfig, rank: int, generator: torch.Generator | None = None) -> Tensor:
    """Component `rank` of a new bank, (4, s, s): four Haar-orthogonal matrices."""
    size = config.blocks // 4
    drawn = torch.empty(4, size, size)
    for matrix in drawn:
        nn.init.orthogonal_(matrix, gain=1.0 if config.init == "unit" else (rank + 1) ** -0.5, generator=generator)
    return drawn
