"""The tensors of a model in the order of a file, each as the views that a file holds: what is written is what is read.

Shapes: `D` width of a half (or of the stream), `R` rank, `S` blocks, `F` factor size, `I` inputs, `O` outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from h2q.alphabet import BYTES
from h2q.errors import require
from h2q.layers.source import weight_of
from h2q.mixers.attention import Attention
from h2q.model import ByteModel

Kind = Literal["bank", "table", "layer", "vector"]


@dataclass(frozen=True)
class Part:
    """A tensor of a file."""

    name: str
    kind: Kind
    """`table`: its rows are looked up, or multiplied as rows; `layer`: (R, I, O); `bank`: (R, 4, s, s)."""
    views: list[Tensor]
    """Below one another they are the tensor; each a view of a parameter."""

    @property
    def tensor(self) -> Tensor:
        """A copy, (rows, columns); of a layer (R, I, O)."""
        if self.kind == "layer":
            return self.views[0].detach().clone()
        if self.kind == "bank":
            return self.views[0].detach().reshape(-1, self.views[0][0, 0].numel()).clone()
        return torch.cat([view.detach().reshape(-1, view.shape[-1]) for view in self.views])

    @torch.no_grad()
    def fill(self, tensor: Tensor) -> None:
        """Put what a file holds into the model."""
        sizes = [view.numel() for view in self.views]
        for view, values in zip(self.views, tensor.flatten().split(sizes), strict=True):
            view.copy_(values.view(view.shape))


def plain(model: ByteModel) -> ByteModel:
    """The same model in layers that the runtimes know: Hamilton layers whose blocks share their factors stay, and those
    of any other family become ordinary matrices, their weights.

    Raises: UserError for what no runtime knows.
    """
    config = model.config
    require(
        config.head_layout == "split",
        "the published head layout cannot be exported: what a position sees there depends on the length of the window, "
        "so there is no step from byte to byte; train a model of the head layout split",
    )
    require(
        config.mixer in ("attention", "state", "both"),
        f"the mixers attention, state and both can be exported, not model.mixer {config.mixer}",
    )
    require(
        config.vocab <= BYTES and config.strides == "off",
        f"models of bytes alone can be exported, not of markers or strides: got model.vocab {config.vocab}, "
        f"model.strides {config.strides}; such a model writes in Python alone, by jobs/generate.py",
    )
    together = sum(table.width for table in config.tables)
    require(
        together <= config.width,
        f"tables side by side can be exported up to the width of {config.width}, and those of model.ngrams "
        f"{config.ngrams} are {together} wide",
    )
    if is_plain(model):
        return model
    with torch.random.fork_rng(devices=[]):
        made = ByteModel(replace(config, kind="dense", memory="store", factors="shared")).eval()
    shared = made.state_dict().keys() & model.state_dict().keys()
    made.load_state_dict({name: model.state_dict()[name] for name in shared}, strict=False)
    with torch.no_grad():
        for (old, rank), (new, _) in zip(_layers(model), _layers(made), strict=True):
            matrices = None if model.bank is None else model.bank.matrices(rank)
            new.weight.copy_(weight_of([old], matrices, model.dtype))
            new.bias.copy_(old.bias)
    return made


def is_plain(model: ByteModel) -> bool:
    """Whether the runtimes know its layers."""
    if model.config.kind != "hamilton":
        return model.config.kind == "dense"
    return all(layer.factors.dim() == 3 for layer, _ in _layers(model))


def parts(model: ByteModel) -> Iterator[Part]:
    """All tensors of a plain model, in the order of a file; of Hamilton layers the ranks that are active."""
    if model.bank is not None:
        yield Part("bank", "bank", [model.bank.components[: model.rank]])
    yield Part("token_emb", "table", [model.token_emb.weight])
    for number, weight in enumerate(model.tables.weights if model.tables is not None else ()):
        yield Part(f"tables.{number}", "table", [weight])
    if model.pos_emb is not None:
        yield Part("pos_emb", "table", [model.pos_emb[0]])
    for number, block in enumerate(model.blocks):
        yield from _block_parts(block, f"blocks.{number}", model)
    if isinstance(model.norm, nn.LayerNorm):
        yield _norm("norm", model.norm)
    if not model.config.tied_embeddings:
        yield Part("head", "table", [model.head.weight])
    yield Part("head.bias", "vector", [model.head.bias])


def _block_parts(block: Any, name: str, model: ByteModel) -> Iterator[Part]:
    yield _norm(f"{name}.norm1", block.norm1)
    for mixer in block.mixer.parts:
        if isinstance(mixer, Attention) and mixer.log_slopes is not None:
            yield Part(f"{name}.log_slopes", "vector", [mixer.log_slopes])
        for layer in (*mixer.inward, mixer.outward):
            yield from _layer_parts(layer, model, model.mixer_rank)
    if block.hidden:
        yield _norm(f"{name}.norm2", block.norm2)
        for layer in block.hidden:
            yield from _layer_parts(layer, model, model.ffn_rank)


def _layer_parts(layer: Any, model: ByteModel, rank: int) -> Iterator[Part]:
    name = next(name for name, module in model.named_modules() if module is layer)
    weight = layer.weight[None] if model.bank is None else layer.factors[:rank]
    yield Part(name, "layer", [weight.transpose(1, 2)])
    yield Part(f"{name}.bias", "vector", [layer.bias])


def _norm(name: str, norm: nn.LayerNorm) -> Part:
    return Part(name, "vector", [norm.weight, norm.bias])


def _layers(model: ByteModel) -> Iterator[tuple[Any, int]]:
    """All layers, and their active ranks."""
    blocks: Any = model.blocks
    for block in blocks:
        yield from (
            (layer, model.mixer_rank) for mixer in block.mixer.parts for layer in (*mixer.inward, mixer.outward)
        )
        yield from ((layer, model.ffn_rank) for layer in block.hidden)
