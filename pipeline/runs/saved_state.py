"""What a model with a state knows of a text, in a file of safetensors: see `h2q.generate.Memory`."""

from pathlib import Path

import torch

from h2q.errors import UserError, require
from pipeline.storage.uri import write_atomic

MOST_BYTES = 1 << 28
"""Of a file that is read: no state of a model that a machine can hold is larger."""


def check_target(path: str, option: str = "save-state") -> None:
    """Raises: UserError unless a file can be put there."""
    parent = Path(path).absolute().parent
    require(parent.is_dir(), f"{option} needs a folder that is there, and {parent} is none: make it")
    require(not Path(path).is_dir(), f"{option} must be a file, and {path} is a folder: name a file in it")


def write_state(path: str, saved: dict[str, torch.Tensor]) -> None:
    """Write it as a whole. Raises: UserError where that cannot be."""
    from safetensors.torch import save

    write_atomic(Path(path), save(saved))


def read_state(path: str) -> dict[str, torch.Tensor]:
    """Raises: UserError for what is no such file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        size = Path(path).stat().st_size
        require(size <= MOST_BYTES, f"a state has at most {MOST_BYTES} bytes, {path} has {size}: name another file")
        return load(Path(path).read_bytes())
    except SafetensorError as error:
        raise UserError(f"{path} is no state that --save-state wrote, or a damaged one: name another") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name a file that --save-state wrote") from error
