"""Import a checkpoint of the published QRLM or H2Q: `python jobs/import_published.py FILE [--name NAME]`."""

import os
import pickletools
import re
import shlex
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from h2q.errors import UserError, require
from pipeline.cli import parse, run
from pipeline.config import RunConfig
from pipeline.runs.folder import check_storage, claim_folder
from pipeline.shown import without_secrets

PROG = "python jobs/import_published.py"

MOST_PICKLE = 1 << 24
"""Bytes of the longest list of tensors that is read."""
PLAIN = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")
"""What a file may ask for besides storages."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Read a .pt file of the published code, without running what is in it, and keep the model as a run."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = ""
    """The published checkpoint."""
    name: str | None = None
    """Name of the run that holds the imported model. None: imported- and the name of the file."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""


def main(args: Sequence[str]) -> None:
    """Import one file."""
    options = parse(ImportOptions, args, default=ImportOptions(), prog=PROG)
    require(options.file != "", f"name the file to import: {PROG} FILE")
    content = read(Path(options.file))
    from h2q.published import from_state_dict
    from pipeline.runs.checkpoint import Checkpoint, write_checkpoint
    from pipeline.training.prologue import public

    model = from_state_dict(content["model"], content.get("config"))
    step = next((content[key] for key in ("iter", "chunk_counter") if isinstance(content.get(key), int)), 0)
    name = options.name or f"imported-{Path(options.file).stem}"
    config = public(replace(RunConfig(), name=name, storage=options.storage, model=model.config))
    command = without_secrets(shlex.join([PROG, *args]))
    folder = claim_folder(check_storage(options.storage), config, "imported", command)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    written = write_checkpoint(
        folder.checkpoints,
        Checkpoint(
            model={key: tensor.contiguous().clone() for key, tensor in model.state_dict().items()},
            optimizer={},
            state={"step": step, "config": config.to_dict(), "imported_from": options.file, "parameters": parameters},
        ),
    )
    family = "H2Q" if model.config.halves else "QRLM"
    print(f"{family}: {parameters:,} parameters, rank {model.rank}, {model.config.depth} blocks, step {step}")
    print(written)


def read(path: Path) -> dict[str, Any]:
    """The dictionary in a published file, read with `weights_only=True`: nothing in it is run.

    Memory: the file is mapped, and of what it claims to hold no more than `MOST_VALUES` numbers are ever copied.
    Raises: UserError if the file is missing, is no file of torch.save, holds objects other than tensors and plain
    values, or no model.
    """
    import torch

    from h2q.published import MOST_VALUES

    require(os.path.isfile(path), f"no file {path}")
    try:
        check_records(path)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UserError:
        raise
    except Exception:  # whatever reading what is damaged comes upon
        # torch's own message advises to load without safety: not repeated here.
        raise UserError(
            f"{path} cannot be read safely: it is damaged, no file of torch.save, or holds more than tensors and plain "
            "values, which are not loaded because loading them could run code"
        ) from None
    require(
        isinstance(content, dict) and isinstance(content.get("model"), dict),
        f"{path} is not a checkpoint of the published code: it must hold a dictionary under the name model",
    )
    require(
        isinstance(content.get("config"), dict | None),
        f"{path} is not a checkpoint of the published code: its config must be a dictionary",
    )
    for name, tensor in content["model"].items():
        require(isinstance(name, str), f"{path}: {name} must be the name of a tensor, in text")
        require(isinstance(tensor, torch.Tensor), f"{path}: {name} must be a tensor, got {type(tensor).__name__}")
    # The bank is named again below every layer: a file need not hold all that it names.
    values = sum(tensor.numel() for name, tensor in content["model"].items() if ".structure_bank." not in name)
    most = min(MOST_VALUES, path.stat().st_size)
    require(values <= most, f"{path} claims to hold {values:,} numbers, but can hold no more than {most:,}")
    return content


def check_records(path: Path) -> None:
    """Look at what torch.load would make before it does. Raises: UserError, ValueError, …"""
    with zipfile.ZipFile(path) as archive:
        sizes = {}
        for entry in archive.infolist():
            require(entry.compress_type == zipfile.ZIP_STORED, f"{path} cannot be read safely: its records are packed")
            sizes[entry.filename] = entry.file_size
        [pickled] = [name for name in sizes if name.endswith("/data.pkl")]
        require(sizes[pickled] <= MOST_PICKLE, f"{path} cannot be read safely: its list of tensors is too long")
        for operation, named, _ in pickletools.genops(archive.read(pickled)):
            # torch would allow others too, of which bytearray makes as many bytes as the file asks for.
            plain = isinstance(named, str) and (named in PLAIN or re.fullmatch(r"torch \w+Storage", named))
            if operation.name == "GLOBAL" and not plain:
                raise ValueError(named)


if __name__ == "__main__":
    run(main)
