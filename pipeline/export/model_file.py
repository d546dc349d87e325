"""The file of a model: header, what is known of it as JSON, tensors, sha256. README.md has the format.

Everything is little-endian, in words of four bytes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from h2q.baselines import parameters
from h2q.config import ModelConfig
from h2q.errors import UserError, first_line, require
from h2q.model import ByteModel
from pipeline.export.encoding import Reader, encoding_of, record
from pipeline.export.parts import parts

MAGIC, VERSION = b"H2QMODEL", 2
MOST_BYTES = 1 << 32

_SIZES = ("vocab", "dim", "depth", "heads", "seq_len")
_HALVES, _ATTENTION, _STATE, _PHASE, _NORM, _TIED = (1 << bit for bit in range(6))
_ROTATIONS = ("none", "phase", "quaternion")
_ORDERS = ("none", "learned", "relative")


def write_model(model: ByteModel, told: dict[str, Any], precision: str, halves: frozenset[str] = frozenset()) -> bytes:
    """The file of a plain model (see `pipeline.export.parts.plain`) in `precision` fp32 or int8; `told`: what is known
    of it; `halves`: names of parts that an int8 file keeps in fp16."""
    tables = model.config.tables
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    head = [*_header(model), len(tables), len(text), *(number for table in tables for number in table[:3])]
    body = np.array(head, "<u4").tobytes() + text + bytes(-len(text) % 4)
    body += b"".join(record(part, encoding_of(part, precision, halves)) for part in parts(model))
    size = len(MAGIC) + 8 + len(body) + 32
    require(size < MOST_BYTES, f"a file has at most {MOST_BYTES} bytes, this model takes {size}")
    content = MAGIC + np.array([VERSION, size], "<u4").tobytes() + body
    return content + hashlib.sha256(content).digest()


def read_model(path: Path) -> tuple[ByteModel, dict[str, Any]]:
    """The model in a file, in float32, and what is known of it. Raises: UserError for a file that is none, of another
    version, truncated or altered."""
    try:
        require(path.stat().st_size < MOST_BYTES, f"{path} is no exported model: it is too large for one")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return read_content(content, str(path))


def read_content(content: bytes, name: str) -> tuple[ByteModel, dict[str, Any]]:
    """As `read_model`, of a file's bytes; `name`: what to call them."""
    _verify(content, name)
    reader = Reader(content[:-32], len(MAGIC) + 8, name)
    numbers, (count, told_bytes) = reader.words(12, "its header"), reader.words(2, "its header")
    tables = [tuple(reader.words(3, "its tables")) for _ in range(min(count, 64))]
    try:
        config = _config(numbers, tables)
        # A number takes a byte at least, and a size that cannot be must not ask for memory; 8: ranks that layers lack.
        require(parameters(config) <= 8 * len(content), "its sizes are larger than the file")
        told = json.loads(reader.take(told_bytes, "what is told of it"))
    except (ValueError, IndexError) as error:
        raise UserError(f"{name} is damaged ({first_line(error)}): export it again") from error
    with torch.random.fork_rng(devices=[]):
        model = ByteModel(config).eval()
    model.set_ranks(mixer=numbers[6] or 1, ffn=numbers[7] or 1)
    for part in parts(model):
        part.fill(reader.record(part))
    require(reader.left == 0, f"{name} is damaged: {reader.left} bytes too many; export it again")
    return model, told


def _verify(content: bytes, name: str) -> None:
    require(content[:8] == MAGIC, f"{name} is no model that jobs/export.py --format h2q wrote: name another file")
    version, size = np.frombuffer(content[8:16].ljust(8, b"\0"), "<u4").tolist()
    require(version == VERSION, f"{name} has version {version} of the format, this code reads {VERSION}: export again")
    require(
        len(content) == size and size >= 48,
        f"{name} is truncated, or longer than it was: {len(content)} bytes, {size} were written; copy it again",
    )
    right = hashlib.sha256(content[:-32]).digest() == content[-32:]
    require(right, f"{name} is altered: its sha256 is not the one that was written; copy it again")


def _header(model: ByteModel) -> list[int]:
    config = model.config
    flags = _HALVES * config.halves + _ATTENTION * (config.mixer != "state") + _STATE * config.carries
    flags += _PHASE * config.phase_rotation + _NORM * config.final_norm + _TIED * config.tied_embeddings
    hamilton = model.bank is not None
    return [
        *(getattr(config, name) for name in _SIZES),
        config.factor if hamilton else 0,
        model.mixer_rank if hamilton else 0,
        model.ffn_rank if hamilton else 0,
        config.ffn_expansion if config.feed_forward else 0,
        flags,
        _ROTATIONS.index(config.rotation),
        _ORDERS.index(config.order),
    ]


def _config(numbers: list[int], tables: list[tuple[int, ...]]) -> ModelConfig:
    """The config of a model that has this header."""
    factor, mixer_rank, ffn_rank, hidden, flags, rotation, order = numbers[5:]
    mixers = {_ATTENTION: "attention", _STATE: "state", _ATTENTION | _STATE: "both"}
    known: dict[str, Any] = dict(zip(_SIZES, numbers[:5], strict=True))
    require(flags < 64 and bool(flags & (_ATTENTION | _STATE)), f"flags must be below 64 and name a mixer, got {flags}")
    return ModelConfig(
        kind="hamilton" if factor else "dense",
        feed_forward=hidden > 0,
        ngrams=",".join(f"{order}:{rows}x{width}" for order, rows, width in tables),
        mixer=mixers[flags & (_ATTENTION | _STATE)],
        rotation=_ROTATIONS[rotation],  # type: ignore[arg-type]
        factor=factor or 1,
        fixed_rank=max(1, min(mixer_rank, ffn_rank)),
        max_rank=max(1, mixer_rank, ffn_rank),
        ffn_expansion=max(1, hidden),
        halves=bool(flags & _HALVES),
        phase_rotation=bool(flags & _PHASE),
        positions=("none", "sinusoids", "relative")[order],
        final_norm=bool(flags & _NORM),
        tied_embeddings=bool(flags & _TIED),
        dropout=0.0,
        **known,
    )
