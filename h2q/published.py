"""Import of checkpoints of the published code: QRLM-CUDA and H2Q-MicroStream.

The family and all sizes are read off the names and shapes of the tensors. H2Q comes with its defective head layout,
without which the weights would mean something else. Shapes: `R` rank, `s` size of a component, `F` factor size, `T`
bytes of context, `D` width of the residual stream.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from h2q.baselines import parameters
from h2q.config import ModelConfig
from h2q.errors import require
from h2q.model import ByteModel

HEADS = 8
"""Attention heads of both published models; no tensor and no config tells them."""

MOST_VALUES = 1 << 26
"""Numbers of the largest model that is read: no published one has half as many."""

_H2Q_BANK = "structure_bank.factors_A"


def from_state_dict(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> ByteModel:
    """The model that a published state_dict holds, in float32, in evaluation mode.

    `config` is the published one (best-model files carry it); only its dropout is needed, the rest must agree.
    Raises: UserError if the names are of neither family, a tensor is missing, left over or misshapen, the model would
    have more than `MOST_VALUES` parameters, or the config contradicts the tensors.
    """
    tensors = {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in state_dict.items()}
    renamed = _rename(tensors)
    model_config = _read_config(renamed, h2q=_H2Q_BANK in tensors, published=config or {})
    size = parameters(model_config)
    require(
        size <= MOST_VALUES, f"the checkpoint calls for a model of {size:,} parameters, and may for {MOST_VALUES:,}"
    )
    with torch.random.fork_rng(devices=[]):
        model = ByteModel(model_config)
    attention = len(renamed["blocks.0.attention.q_proj.factors"])
    ffn = len(renamed["blocks.0.ffn.fc1.factors"])
    own = model.state_dict()
    own.pop("ranks")
    missing, unknown = sorted(set(own) - set(renamed)), sorted(set(renamed) - set(own))
    require(
        not missing, f"the checkpoint lacks {len(missing)} tensors that its sizes call for, the first {missing[:1]}"
    )
    require(not unknown, f"the checkpoint holds {len(unknown)} tensors of no known use, the first {unknown[:1]}")
    for name, tensor in renamed.items():
        _copy(own[name], tensor, name, ffn if ".ffn." in name else attention)
    model.set_ranks(mixer=attention, ffn=ffn)
    return model.eval()


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names → names here; ranks kept one by one are stacked, the bank repeated below every layer left out."""
    renamed: dict[str, Tensor] = {}
    ranks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if ".structure_bank." in name:
            continue
        told = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        require(
            isinstance(tensor, Tensor) and tensor.dim() > 0,
            f"{name} must be a tensor of one dimension or more, got {told}",
        )
        single = re.fullmatch(r"(.+\.(?:factors_A_components|factors_B_gpu))\.(\d+)", name)
        if single:
            ranks.setdefault(_our_name(single[1]), {})[int(single[2])] = tensor
        else:
            renamed[_our_name(name)] = tensor
    for name, terms in ranks.items():
        require(
            sorted(terms) == list(range(len(terms))) and len({term.shape for term in terms.values()}) == 1,
            f"{name} must have ranks 0, 1, … of one shape, got ranks {sorted(terms)}",
        )
        renamed[name] = torch.stack([terms[rank] for rank in range(len(terms))])
    return renamed


def _our_name(name: str) -> str:
    name = re.sub(r"^structure_bank\.factors_A(_components)?$", "bank.components", name)
    name = re.sub(r"^layers\.(\d+)\.", r"blocks.\1.", name)
    name = re.sub(r"\.attn\.", ".attention.", name)
    name = re.sub(r"\.ffn_([12])\.", r".ffn.fc\1.", name)
    return re.sub(r"\.factors_B(_gpu)?$", ".factors", name)


def _read_config(renamed: Mapping[str, Tensor], *, h2q: bool, published: Mapping[str, Any]) -> ModelConfig:
    first = ("bank.components", "token_emb.weight", "pos_emb", "blocks.0.attention.q_proj.factors")
    for name in (*first, "blocks.0.ffn.fc1.factors"):
        require(
            name in renamed,
            f"not a checkpoint of the published QRLM or H2Q: it has no {name} (named there structure_bank.factors_A, "
            "layers.0.attn.q_proj.factors_B and so on)",
        )
    bank, embedding, positions, query = (renamed[name] for name in first)
    require(
        embedding.dim() == 2 and positions.dim() == 3 and query.dim() == 3,
        f"token_emb.weight, pos_emb and factors_B must have 2, 3 and 3 dimensions, got shapes "
        f"{tuple(embedding.shape)}, {tuple(positions.shape)}, {tuple(query.shape)}",
    )
    blocks = {int(match[1]) for name in renamed if (match := re.match(r"blocks\.(\d+)\.", name))}
    found = {
        "dim": embedding.shape[1],
        "factor_size": query.shape[-1],
        "depth": len(blocks),
        "seq_len": positions.shape[1],
    }
    stated = {"dropout_rate": 0.1, **found, **published}
    for name in ("dropout_rate", *found):
        kind = type(stated[name])
        require(issubclass(kind, int | float), f"config: {name} must be a number, got {kind.__name__}")
    for name, size in found.items():
        require(stated[name] == size, f"config and tensors contradict each other: {name} is {stated[name]} and {size}")
    return ModelConfig(
        dim=found["dim"],
        depth=found["depth"],
        heads=HEADS,
        factor=found["factor_size"],
        fixed_rank=len(query),
        max_rank=len(bank),
        seq_len=found["seq_len"],
        vocab=len(embedding),
        halves=h2q,
        phase_rotation=h2q,
        init="published",
        positions="random",
        final_norm=False,
        tied_embeddings=False,
        dropout=stated["dropout_rate"],
        head_layout="published" if h2q else "split",
    )


@torch.no_grad()
def _copy(target: Tensor, source: Tensor, name: str, rank: int) -> None:
    """Copy a published tensor into the model; of factors only the ranks that it has, the rest stays zero."""
    if name.endswith(".factors"):
        require(len(source) == rank, f"{name} must have {rank} ranks like its fellows, got {len(source)}")
        target.zero_()
        target = target[:rank]
    require(target.shape == source.shape, f"{name} must have shape {tuple(target.shape)}, got {tuple(source.shape)}")
    target.copy_(source)
