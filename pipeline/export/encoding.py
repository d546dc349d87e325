"""Tensors as records of a file: fp32, fp16, or int8 with a scale for each row (of a layer: for each output of a rank).

A record is the words encoding, rows and columns; of int8 then the scales, fp16; then the numbers; both padded to four
bytes.
"""

import numpy as np
import torch
from torch import Tensor

from h2q.errors import UserError
from pipeline.export.parts import Part

FP32, FP16, INT8 = 0, 1, 2


def scaled(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 and scales, of fp16's precision: one a row of a table (rows, columns), one for each (R, O) of a layer
    (R, I, O)."""
    scales = (tensor.abs().amax(1) / 127).half().float()
    safe = torch.where(scales > 0, scales, 1.0)
    return (tensor / safe.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8), scales


def unscaled(numbers: Tensor, scales: Tensor) -> Tensor:
    """What `scaled` stands for, float32."""
    return numbers.float() * scales.unsqueeze(1)


def encoding_of(part: Part, precision: str, halves: frozenset[str]) -> int:
    """How a part is written in a file of this precision, where those named `halves` are kept in fp16."""
    if precision == "fp32" or part.kind == "vector":
        return FP32
    return FP16 if part.kind == "bank" or part.name in halves else INT8


def record(part: Part, encoding: int) -> bytes:
    """The bytes of a record."""
    tensor = part.tensor.float()
    rows, columns = tensor.flatten(0, -2).shape
    head = np.array([encoding, rows, columns], "<u4").tobytes()
    if encoding == INT8:
        numbers, scales = scaled(tensor)
        head += _padded(scales.numpy().astype("<f2").tobytes())
        body = numbers.numpy().tobytes()
    else:
        body = tensor.numpy().astype("<f2" if encoding == FP16 else "<f4").tobytes()
    return head + _padded(body)


def _padded(body: bytes) -> bytes:
    return body + bytes(-len(body) % 4)


class Reader:
    """Takes words and records off a file's bytes. Raises: UserError for what cannot be there."""

    def __init__(self, content: bytes, at: int, name: str) -> None:
        self._content, self._at, self._name = content, at, name

    @property
    def left(self) -> int:
        return len(self._content) - self._at

    def take(self, count: int, what: str) -> bytes:
        """So many bytes, and the padding behind them."""
        padded = count + -count % 4
        if padded > self.left:
            raise UserError(f"{self._name} is damaged: it ends within {what}; export it again")
        found = self._content[self._at : self._at + count]
        self._at += padded
        return found

    def words(self, count: int, what: str) -> list[int]:
        return np.frombuffer(self.take(4 * count, what), "<u4").tolist()

    def record(self, part: Part) -> Tensor:
        """The tensor of a part, float32."""
        wanted = part.tensor.shape
        encoding, *shape = self.words(3, part.name)
        rows, columns = int(np.prod(wanted[:-1])), wanted[-1]
        if shape != [rows, columns] or encoding > INT8 or (encoding == INT8 and part.kind in ("vector", "bank")):
            raise UserError(
                f"{self._name} is damaged: {part.name} must have {rows} × {columns} numbers, encoded as 0, 1 or 2, got "
                f"{shape[0]} × {shape[1]} as {encoding}; export it again"
            )
        if encoding == INT8:
            count = rows if part.kind == "table" else wanted[0] * columns
            scales = self._numbers(count, "<f2", part.name).float()
            scales = scales.view(-1, columns) if part.kind == "layer" else scales
            return unscaled(self._numbers(rows * columns, "i1", part.name).view(wanted), scales)
        return self._numbers(rows * columns, "<f2" if encoding == FP16 else "<f4", part.name).view(wanted).float()

    def _numbers(self, count: int, kind: str, what: str) -> Tensor:
        found = np.frombuffer(self.take(count * np.dtype(kind).itemsize, what), kind)
        return torch.from_numpy(found.copy())
