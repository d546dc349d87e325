"""What a model knows of a text, as the runtime in C saves it: read here and gone on from, and the other way.

Of a window: its bytes. Of a model that carries a state: what its tables saw last, the state of every block, keys and
values of the chunk so far, and the logits of the next byte. README.md has the format.

Shapes: `D` width of a half (or of the stream), `T` bytes of a chunk, `t` of them up to now, `V` alphabet.
"""

import numpy as np
import torch
from torch import Tensor

from h2q.decode.session import Session
from h2q.errors import require
from h2q.model import ByteModel

MAGIC, VERSION = 0x53513248, 1
_NAME = "the state"


def write_window(context: bytes, sha256: bytes) -> bytes:
    """The state of a model that reads a window, these bytes, at most T; `sha256`: of the model's file."""
    return _head(sha256, len(context)) + np.frombuffer(context, np.uint8).astype("<u4").tobytes()


def read_window(content: bytes, sha256: bytes) -> bytes:
    """The bytes of the window. Raises: UserError for a state that is not of this model, or damaged."""
    count = _position(content, sha256)
    symbols = np.frombuffer(content[20:], "<u4") if len(content) % 4 == 0 else np.zeros(0)
    fine = len(symbols) == count and bool((symbols < 256).all())
    require(fine, f"{_NAME} is damaged: it must hold {count} bytes; begin without it")
    return symbols.astype(np.uint8).tobytes()


def write_session(model: ByteModel, session: Session, sha256: bytes) -> bytes:
    """What a session of the model, which carries a state, knows; `sha256`: of the model's file."""
    saved = session.saved()
    depth, history = model.config.depth, _history(model)
    kept = saved.get("keys_and_values")
    position = 0 if kept is None else kept.shape[1]
    symbols = saved["state"][-1, : history - 1] if history else torch.zeros(0)
    recent = np.array([0] * bool(history) + symbols.tolist(), "<u4")
    tensors = [saved["state"][:depth]]
    if kept is not None:
        tensors.append(kept[:, :, 1:])
    tensors.append(session.read(b""))
    return _head(sha256, position) + recent.tobytes() + b"".join(map(_floats, tensors))


def read_session(model: ByteModel, session: Session, content: bytes, sha256: bytes) -> Tensor:
    """Make the session go on from a saved state; the logits (V,) of the next byte.

    Raises: UserError for a state that is not of this model, or damaged.
    """
    config, history, position = model.config, _history(model), _position(content, sha256)
    saved = session.saved()
    sizes = [config.depth * config.width, config.depth * position * 2 * config.width, config.vocab]
    wanted = 4 * (5 + history + sum(sizes))
    require(
        len(content) == wanted, f"{_NAME} is damaged: {len(content)} bytes, {wanted} were written; begin without it"
    )
    require(position < config.seq_len, f"{_NAME} is damaged: {position} bytes of a chunk; begin without it")
    numbers = torch.from_numpy(np.frombuffer(content[20 + 4 * history :], "<f4").copy())
    state, kept, logits = numbers.split(sizes)
    saved["state"] = torch.zeros(saved["state"].shape)
    saved["state"][: config.depth] = state.view(config.depth, config.width)
    if history:
        recent = np.frombuffer(content[20 : 20 + 4 * history], "<u4")
        saved["state"][-1, : history - 1] = torch.from_numpy(recent[1:].astype(np.float32))
    if "keys_and_values" in saved:
        shape = saved["keys_and_values"].shape
        saved["keys_and_values"] = torch.zeros(shape[0], position, *shape[2:])
        saved["keys_and_values"][:, :, 1:] = kept.view(config.depth, position, 2, config.width)
    require(bool(logits.isfinite().all()), f"{_NAME} is not finite: begin without it")
    session.resume(saved)
    return logits


def _history(model: ByteModel) -> int:
    """Bytes of the longest n-gram, 0 without tables."""
    return max((table.order for table in model.config.tables), default=0)


def _head(sha256: bytes, position: int) -> bytes:
    return np.array([MAGIC, VERSION], "<u4").tobytes() + sha256[:8] + np.array([position], "<u4").tobytes()


def _position(content: bytes, sha256: bytes) -> int:
    magic, version = np.frombuffer(content[:8].ljust(8, b"\0"), "<u4").tolist()
    require(len(content) >= 20 and magic == MAGIC, f"{_NAME} is none that the runtime saved: begin without it")
    require(version == VERSION, f"{_NAME} has version {version}, this code reads {VERSION}: begin without it")
    require(content[8:16] == sha256[:8], f"{_NAME} is of another model: begin without it")
    return int.from_bytes(content[16:20], "little")


def _floats(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().astype("<f4").tobytes()
