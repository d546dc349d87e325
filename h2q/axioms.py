"""Penalties on the factors of all Hamilton layers: that each is orthogonal, that they are independent of each other.

Shapes: `N` layers, `R` rank, `F` factor size.
"""

import torch
from torch import Tensor

from h2q.layers.hamilton import HamiltonLinear
from h2q.model import ByteModel


def orthogonality(model: ByteModel) -> Tensor:
    """The axiom loss Σ_layers Σ_r ‖B_rᵀ B_r − I‖_F over active ranks, a scalar, in one bmm.

    As published: over all six Hamilton layers of a block with halves (H2Q), over the query projection and the first
    feed-forward layer without (QRLM). Zero for a dense model.
    """
    groups = _factors(model)
    if not groups:
        return model.pos_emb.new_zeros(())
    factors = torch.cat([group.flatten(0, 1) for group in groups])
    gram = factors.transpose(1, 2) @ factors
    difference = gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.vector_norm(difference, dim=(1, 2)).sum()


def independence(model: ByteModel) -> Tensor:
    """Σ_layers ( Σ_{r<t} ⟨B_r, B_t⟩² )^½, a scalar: how far a layer's components depend on each other.

    The inner product is of components as vectors of F² numbers, over the layers and ranks of `orthogonality`. The
    papers claim this penalty and do not compute it. Zero for a dense model.
    """
    total = model.pos_emb.new_zeros(())
    for group in _factors(model):
        vectors = group.flatten(2)
        products = vectors @ vectors.transpose(1, 2)
        total = total + torch.linalg.vector_norm(products.triu(diagonal=1), dim=(1, 2)).sum()
    return total


def _factors(model: ByteModel) -> list[Tensor]:
    """Active factors of the layers that the axioms speak of: (N, R, F, F) for attention, then for feed-forward."""
    if model.bank is None:
        return []
    if model.config.halves:
        attention, ffn = ("q_proj", "k_proj", "v_proj", "o_proj"), ("fc1", "fc2")
    else:
        attention, ffn = ("q_proj",), ("fc1",)
    blocks = list(model.blocks)
    return [
        _stack([getattr(block.attention, name) for block in blocks for name in attention], model.attention_rank),
        _stack([getattr(block.ffn, name) for block in blocks for name in ffn], model.ffn_rank),
    ]


def _stack(layers: list[HamiltonLinear], rank: int) -> Tensor:
    return torch.stack([layer.factors for layer in layers])[:, :rank]
