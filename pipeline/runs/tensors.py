"""The tensors of a checkpoint, looked at before any is used: AdamW's fused step reads and writes a moment as if it had
its parameter's shape.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from h2q.baselines import parameters
from h2q.shapes import shapes_only
from pipeline.config import RunConfig
from pipeline.runs.model import new_model
from pipeline.storage.uri import DamagedFile, open_regular

Tensors = dict[str, torch.Tensor]
Kind = tuple[list[int], torch.dtype]
"""Shape and dtype."""

_HEADER = 1 << 22
"""Bytes of the longest header of a file of tensors: their names, shapes and places."""
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""


def read_tensors(model: Path, optimizer: Path | None, config: RunConfig) -> tuple[Tensors, Tensors]:
    """The tensors of a model and of its AdamW, whose moments are there for each parameter or for none (`optimizer`
    None: none is wanted).

    Memory: that of these tensors, which the files hold one by one; what else a file claims to hold costs nothing.
    Raises: DamagedFile for a name, shape or dtype that the config does not call for, and for what is not finite.
    """
    least = 4 * parameters(config.model)
    if model.stat().st_size < least:
        raise DamagedFile(f"{model.name} must have more than {least} bytes, those of a model of its config")
    with shapes_only():
        example = new_model(config)
    weights = {name: (list(tensor.shape), tensor.dtype) for name, tensor in example.state_dict().items()}
    moments = {
        f"{kind}/{name}": ([] if kind == "step" else list(parameter.shape), parameter.dtype)
        for name, parameter in example.named_parameters()
        for kind in _MOMENTS
    }
    tensors = _read(model, weights)
    ranks = tensors["ranks" if config.projector is None else "decoder.ranks"].tolist()
    if not all(1 <= rank <= config.model.storage_rank for rank in ranks):
        raise DamagedFile(f"{model.name}: ranks must be 1 to {config.model.storage_rank}, found {ranks}")
    return tensors, {} if optimizer is None else _read(optimizer, moments, may_be_empty=True)


def read_carried(file: Path, name: str, config: RunConfig) -> Tensors:
    """What mixers carry, by its one name: (lanes, depth, size). Raises: DamagedFile as `read_tensors`."""
    with shapes_only():
        example = new_model(config).new_state(config.training.lanes)
    return _read(file, {name: (list(example.shape), example.dtype)})


def _read(file: Path, wanted: dict[str, Kind], *, may_be_empty: bool = False) -> Tensors:
    with open_regular(file) as content:
        header = int.from_bytes(content.read(8), "little")
        if header > _HEADER:
            raise DamagedFile(f"{file.name}: its header must have at most {_HEADER} bytes, found {header}")
    try:
        with safe_open(file, framework="pt") as content:  # maps the file: only its header is read so far
            names: set[str] = set(content.keys())
            if may_be_empty and not names:
                return {}
            for name in sorted(names ^ wanted.keys()):
                raise DamagedFile(f"{file.name}: {name} is {'unknown' if name in names else 'missing'}")
            for name, (shape, _) in wanted.items():
                found = content.get_slice(name).get_shape()
                if found != shape:
                    raise DamagedFile(f"{file.name}: {name} must have shape {shape}, found {found}")
            return {name: _checked(content.get_tensor(name), kind[1], file, name) for name, kind in wanted.items()}
    except SafetensorError as error:
        raise DamagedFile(f"{file.name} is no file of safetensors ({error})") from error


def _checked(tensor: torch.Tensor, dtype: torch.dtype, file: Path, name: str) -> torch.Tensor:
    """The tensor in memory of its own: what is mapped would go with its file."""
    if tensor.dtype != dtype:
        raise DamagedFile(f"{file.name}: {name} must be of {dtype}, found {tensor.dtype}")
    if not tensor.isfinite().all():
        raise DamagedFile(f"{file.name}: {name} must be finite, found NaN or infinity")
    return tensor.clone()
