"""The byte-level language model: embed → blocks → logits. All initialisation is here.

Shapes: `B` lanes, `T` bytes of context, `D` width of the residual stream, `V` alphabet, `R` rank, `S` blocks of a
Kronecker product, `s = S / 4`.
"""

import math

import torch
from torch import Tensor, nn

from h2q.bank import StructureBank
from h2q.block import Block, prepare_weights, stream_energy
from h2q.config import ModelConfig
from h2q.errors import require
from h2q.kernels.linear import linear
from h2q.reversible import Stack, run_reversible

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
        self.pos_emb = nn.Parameter(torch.zeros(1, config.seq_len, config.dim))
        self.dropout = nn.Dropout(config.dropout)
        self.bank = None if config.kind != "hamilton" else StructureBank(config.storage_rank, config.blocks)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim) if config.final_norm else nn.Identity()
        self.head = nn.Linear(config.dim, config.vocab)
        if config.tied_embeddings:
            self.head.weight = self.token_emb.weight
        # Active ranks of the attention and of the feed-forward layers: a buffer, so that a state_dict carries them, and
        # integers, so that a step reads them without waiting for the device.
        self.ranks: Tensor
        self.register_buffer("ranks", torch.tensor([config.fixed_rank, config.fixed_rank]))
        self.attention_rank = self.ffn_rank = config.fixed_rank
        self.register_load_state_dict_post_hook(_read_ranks)
        initialise(self)

    @property
    def rank(self) -> int:
        """Active ranks of the bank: as many as the layer with most of them."""
        return max(self.attention_rank, self.ffn_rank)

    def set_ranks(self, attention: int, ffn: int) -> None:
        """Make so many ranks active in the attention and in the feed-forward layers."""
        self.attention_rank, self.ffn_rank = attention, ffn
        self.ranks.copy_(torch.tensor([attention, ffn]))

    def forward(self, x: Tensor, *, energy: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Bytes (B, T), int64, T ≤ seq_len → logits (B, T, V) in float32.

        With `energy` also (depth,), detached: the mean L2 norm of the residual stream over positions after each block.
        Raises: UserError for another dtype or shape.
        """
        self._check(x)
        dtype = _product_dtype(x.device, self.pos_emb.dtype)
        with torch.autocast(x.device.type, enabled=False):
            stream = self.dropout(self.token_emb(x) + self.pos_emb[:, : x.shape[1]])
            stream, energies = self._run_blocks(stream, dtype, energy)
            hidden = self.norm(stream).to(dtype)
            logits = linear(hidden, self.head.weight.to(dtype), self.head.bias.to(dtype))
            logits = logits.to(self.pos_emb.dtype)
        return (logits, torch.stack(energies)) if energy else logits

    def _run_blocks(self, stream: Tensor, dtype: torch.dtype, energy: bool) -> tuple[Tensor, list[Tensor]]:
        matrices = None if self.bank is None else self.bank.matrices(self.rank)
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        if self.config.memory == "reversible":
            stack = Stack(blocks, self.attention_rank, self.ffn_rank, dtype, energy)
            first, second = stream.chunk(2, dim=-1)
            first, second, *energies = run_reversible(stack, first, second, matrices)
            return torch.cat((first, second), dim=-1), energies
        for_attention = None if matrices is None else matrices[: self.attention_rank]
        for_ffn = None if matrices is None else matrices[: self.ffn_rank]
        if matrices is not None and matrices.device.type == "cuda":
            ranks = matrices[: self.attention_rank], matrices[: self.ffn_rank]
            for_attention = for_ffn = prepare_weights(blocks, *ranks, dtype)
        energies = []
        first, second = stream.chunk(2, dim=-1) if self.config.halves else (stream, stream)
        for block in blocks:
            if self.config.halves:
                first = first + block.attention_branch(second, for_attention, dtype)
                second = second + block.ffn_branch(first, for_ffn, dtype)
            else:
                first = first + block.attention_branch(first, for_attention, dtype)
                first = second = first + block.ffn_branch(first, for_ffn, dtype)
            if energy:
                energies.append(stream_energy(first, second if self.config.halves else None))
        return torch.cat((first, second), dim=-1) if self.config.halves else first, energies

    def _check(self, x: Tensor) -> None:
        require(x.dtype == torch.int64, f"bytes must be an int64 tensor, got {x.dtype}")
        require(x.dim() == 2, f"bytes must be (B, T), got shape {tuple(x.shape)}")
        require(x.numel() > 0, f"the batch is empty: shape {tuple(x.shape)}")
        require(
            x.shape[1] <= self.config.seq_len,
            f"a window of {x.shape[1]} bytes is longer than the positions, model.seq_len = {self.config.seq_len}",
        )


def _product_dtype(device: torch.device, fallback: torch.dtype) -> torch.dtype:
    """The dtype of matrix products: autocast's where it is on."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return fallback


def _read_ranks(model: nn.Module, _: object) -> None:
    assert isinstance(model, ByteModel)
    model.attention_rank, model.ffn_rank = (int(rank) for rank in model.ranks.tolist())


@torch.no_grad()
def initialise(model: ByteModel) -> None:
    """Draw all parameters, as `config.init` says; ranks that growth has not reached stay zero in bank and factors."""
    config = model.config
    unit = config.init == "unit"
    nn.init.normal_(model.token_emb.weight, std=EMBEDDING_STD if unit else 1.0)
    if config.positions == "sinusoids":
        code = sinusoids(config.seq_len, config.width) * (EMBEDDING_STD * 2**0.5)  # As strong as the bytes beside it.
        model.pos_emb.copy_(code.repeat(1, config.dim // config.width))
    else:
        nn.init.normal_(model.pos_emb, std=EMBEDDING_STD)
    if not config.tied_embeddings:
        model.head.reset_parameters()
    nn.init.zeros_(model.head.bias)
    if model.bank is not None:
        for rank in range(config.fixed_rank):
            model.bank.components[rank] = component(config, rank)
    for block in model.blocks:
        assert isinstance(block, Block)
        inward = [block.attention.q_proj, block.attention.k_proj, block.attention.v_proj, block.ffn.fc1]
        for layer in [*inward, block.attention.o_proj, block.ffn.fc2]:
            writes_to_residual = layer is block.attention.o_proj or layer is block.ffn.fc2
            layer.initialise(0.0 if unit and writes_to_residual else 1.0)  # type: ignore[operator]


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
