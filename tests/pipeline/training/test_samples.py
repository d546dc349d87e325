"""Samples: the prompt told from what the model wrote, as text or as the bytes they are."""

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.training.samples import whole_characters, write_sample
from pipeline.training.summary import _told_apart


class Bytes:
    first_input, alphabet = "sounds/one.wav", 256

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._data[start:stop]


def test_a_sample_of_text_marks_its_prompt_and_one_of_bytes_is_a_file_of_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ByteModel(ModelConfig(dim=32, depth=1, heads=2, factor=4, fixed_rank=2, seq_len=16)).eval()
    data: Any = Bytes(b"x" + "é".encode() * 50)  # byte 64 is half of a character
    assert write_sample(tmp_path, 3, model, data)
    sample = (tmp_path / "step-000000003.txt").read_text(encoding="utf-8")
    assert sample.startswith("⟦x" + "é" * 31 + "⟧")
    assert write_sample(tmp_path, 4, model, data, kind="bytes")
    assert (tmp_path / "step-000000004.wav").read_bytes()[:64] == data.read(0, 64).tobytes()
    assert (tmp_path / "step-000000004.wav").stat().st_size == 264


def test_half_a_character_is_left_out_but_never_everything() -> None:
    cut = {b"ab": b"ab", "é中".encode()[:-1]: "é".encode(), b"\xe4": b"\xe4", b"\xffa": b"\xffa"}
    assert {data: whole_characters(data) for data in cut} == cut


def test_the_prompt_is_dim_where_that_can_be_seen() -> None:
    sample = "⟦The ⟧end"
    assert _told_apart(sample, dim=False).plain == sample
    said = StringIO()
    Console(file=said, force_terminal=True, color_system="standard").print(_told_apart(sample, dim=True))
    assert said.getvalue().startswith("\x1b[2mThe \x1b[0m") and said.getvalue().endswith("end\n")
