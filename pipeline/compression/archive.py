"""The archive: one safetensors file with the code as its tensor, and what decoding needs as its metadata."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from annotated_types import Ge, Le
from typing_extensions import TypedDict

from h2q.errors import UserError, require
from pipeline.compression.config import MOST
from pipeline.storage.json_file import fitting, parse
from pipeline.storage.uri import write_atomic

FORMAT = 2

MOST_BYTES = 1 << 28
"""Of a file that is coded, and of an archive: a model needs days for so many. In memory are the file, its code, and
the model."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A coded file."""

    code: np.ndarray
    """uint32."""
    size: int
    """Bytes of the file."""
    sha256: str
    """Of the file."""
    stride: int
    lanes: int
    threads: int
    machine: str
    """What computed it: elsewhere last digits may differ, and the code with them."""
    model: str | None = None
    """sha256 of the model.safetensors that coded it; None: a new model learnt while it coded."""
    run: str | None = None
    """The run of that model."""
    config: dict[str, Any] | None = None
    """Of the model that learnt: RunConfig.to_dict(), what matters of it."""
    updates: int = 1
    """Of the model that learnt: optimizer steps for a chunk."""

    def write(self, path: Path) -> int:
        """Write it as a whole; how many bytes it has. Raises: UserError where that cannot be."""
        from safetensors.numpy import save

        told = {key: value for key, value in asdict(self).items() if key != "code" and value is not None}
        told |= {"format": FORMAT, "code_sha256": _digest(self.code)}
        content = save({"code": self.code}, metadata={"h2q": json.dumps(told, separators=(",", ":"))})
        write_atomic(path, content)
        return len(content)


class _Told(TypedDict):
    """An archive's metadata."""

    format: Annotated[int, Ge(FORMAT), Le(FORMAT)]
    code_sha256: str
    size: Annotated[int, Ge(0), Le(MOST_BYTES)]
    sha256: str
    stride: Annotated[int, Ge(1), Le(MOST_BYTES)]
    lanes: Annotated[int, Ge(1), Le(MOST)]
    threads: Annotated[int, Ge(1), Le(MOST)]
    machine: str
    model: NotRequired[str]
    run: NotRequired[str]
    config: NotRequired[dict[str, Any]]
    updates: Annotated[int, Ge(1), Le(MOST)]


def read_archive(path: Path) -> Archive:
    """Raises: UserError for what is no archive, or a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        require(path.is_file(), f"no file {path}: name an archive that jobs/compress.py wrote")
        found = path.stat().st_size
        require(found <= MOST_BYTES, f"an archive has at most {MOST_BYTES} bytes, {path} has {found}")
        with safe_open(path, "numpy") as file:
            told = parse((file.metadata() or {})["h2q"].encode())
            told = fitting(told, _Told, str(path), "have it made again, or use the version that made it")
            code = file.get_tensor("code")
        wanted = told.pop("code_sha256")
        require(code.dtype == np.uint32 and _digest(code) == wanted, f"{path} is damaged: its code has another sha256")
        return Archive(code=code, **{name: value for name, value in told.items() if name != "format"})
    except (SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no archive that jobs/compress.py wrote, or a damaged one: name another") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _digest(code: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(code, "<u4").data).hexdigest()
