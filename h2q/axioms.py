"""Penalties on the factors of all Hamilton layers: that each is orthogonal, that they are independent of each other.

Shapes: `N` layers, `R` rank, `F` factor size; with a factor for each block (N, R, S, F, F) instead of (N, R, F, F).
"""

import torch
from torch import Tensor

from h2q.block import Block
from h2q.model import ByteModel


def orthogonality(model: ByteModel) -> Tensor:
    """The axiom loss Σ_layers Σ_r ‖B_rᵀ B_r − I‖_F over active ranks, a scalar, in one bmm.

    As published: over all six Hamilton layers of a block with halves (H2Q), over the query projection and the first
    feed-forward layer without (QRLM); of another mixer all layers likewise, or the first. Zero for a dense model.
    """
    groups = _factors(model)
    if not groups:
        return model.token_emb.weight.new_zeros(())
    factors = torch.cat([group.flatten(0, -3) for group in groups])
    gram = factors.transpose(1, 2) @ factors
    difference = gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.vector_norm(difference, dim=(1, 2)).sum()


def independence(model: ByteModel) -> Tensor:
    """Σ_layers ( Σ_{r<t} ⟨B_r, B_t⟩² )^½, a scalar: how far a layer's components depend on each other.

    The inner product is of components as vectors of F² numbers, over the layers and ranks of `orthogonality`. The
    papers claim this penalty and do not compute it. Zero for a dense model.
    """
    total = model.token_emb.weight.new_zeros(())
    for group in _factors(model):
        vectors = group.flatten(2)
        products = vectors @ vectors.transpose(1, 2)
        total = total + torch.linalg.vector_norm(products.triu(diagonal=1), dim=(1, 2)).sum()
    return total


def _factors(model: ByteModel) -> list[Tensor]:
    """Active factors of the layers that the axioms speak of: (N, R, F, F) for mixers, then for feed-forward."""
    if model.bank is None:
        return []
    blocks, halves = [block for block in model.blocks if isinstance(block, Block)], model.config.halves
    mixing = [
        layer
        for block in blocks
        for part in block.mixer.parts
        for layer in ([*part.inward, part.outward] if halves else part.inward[:1])
    ]
    feeding = [layer for block in blocks for layer in (block.hidden if halves else block.hidden[:1])]
    groups = (mixing, model.mixer_rank), (feeding, model.ffn_rank)
    return [_stack(layers, rank) for layers, rank in groups if layers]


def _stack(layers: list, rank: int) -> Tensor:
    return torch.stack([layer.factors for layer in layers])[:, :rank]
