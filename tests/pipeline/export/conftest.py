"""The runtime in C, compiled once, and models small enough to step through; skipped where there is no C compiler."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from h2q.config import ModelConfig
from h2q.model import ByteModel

SOURCE = Path(__file__).parents[3] / "pipeline" / "export" / "runtime.c"

SIZES: dict[str, Any] = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 16, "dropout": 0.0}


class CModel:
    """A model opened by the runtime; every call is one of its functions."""

    def __init__(self, library: ctypes.CDLL, content: bytes) -> None:
        self._library, self._data = library, ctypes.create_string_buffer(content, len(content))
        error = ctypes.c_int()
        self._model = library.h2q_open(self._data, ctypes.c_size_t(len(content)), ctypes.byref(error))
        self.error: str = library.h2q_message(error).decode()

    def __enter__(self) -> "CModel":
        assert self._model, self.error
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._library.h2q_close(ctypes.c_void_p(self._model))

    def call(self, name: str, *args: Any) -> int:
        return getattr(self._library, f"h2q_{name}")(ctypes.c_void_p(self._model), *args)

    def read(self, data: bytes) -> np.ndarray:
        assert self.call("read", data, ctypes.c_size_t(len(data))) == 0
        return self.logits()

    def step(self, symbol: int) -> np.ndarray:
        assert self.call("step", symbol) == 0
        return self.logits()

    def logits(self) -> np.ndarray:
        found = self._library.h2q_logits(ctypes.c_void_p(self._model))
        return np.ctypeslib.as_array(found, (self.call("vocab"),)).copy()

    def energy(self) -> np.ndarray:
        found = self._library.h2q_energy(ctypes.c_void_p(self._model))
        return np.ctypeslib.as_array(found, (self.call("depth"),)).copy()

    def write(self, length: int, temperature: float = 0.0, seed: int = 0) -> bytes:
        written, random = bytearray(), ctypes.c_uint64(seed)
        for _ in range(length):
            byte = self.call("sample", ctypes.c_float(temperature), ctypes.byref(random))
            assert byte >= 0
            written.append(byte)
            self.step(byte)
        return bytes(written)

    def saved(self) -> bytes:
        size = self._library.h2q_state_size(ctypes.c_void_p(self._model))
        out = ctypes.create_string_buffer(size)
        self._library.h2q_state_save(ctypes.c_void_p(self._model), out)
        return out.raw

    def restore(self, content: bytes) -> int:
        return self.call("state_restore", content, ctypes.c_size_t(len(content)))


@pytest.fixture(scope="session")
def compiler() -> str:
    """The program; skips where there is none."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("needs a C compiler: cc, gcc or clang")
    return found


@pytest.fixture(scope="session")
def build(compiler: str) -> Callable[..., Path]:
    """Compiles the runtime, without a warning, to a file."""

    def compiled(out: Path, *options: str) -> Path:
        strict = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2")
        subprocess.run([compiler, *strict, *options, str(SOURCE), "-o", str(out), "-lm"], check=True)
        return out

    return compiled


def load(path: Path) -> Callable[[bytes], CModel]:
    """The runtime as a library: opens the bytes of a model's file."""
    loaded = ctypes.CDLL(str(path))
    loaded.h2q_open.restype = ctypes.c_void_p
    loaded.h2q_message.restype = ctypes.c_char_p
    loaded.h2q_logits.restype = loaded.h2q_energy.restype = ctypes.POINTER(ctypes.c_float)
    loaded.h2q_state_size.restype = ctypes.c_size_t
    loaded.h2q_state_save.restype = None
    loaded.h2q_bits.restype = ctypes.c_double
    return lambda content: CModel(loaded, content)


@pytest.fixture(scope="session")
def open_c(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], CModel]:
    """Opens the bytes of a model's file by the runtime, compiled for any processor of this kind."""
    return load(build(tmp_path_factory.mktemp("runtime") / "runtime.so", "-shared", "-fPIC"))


@pytest.fixture(scope="session")
def binary(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    return build(tmp_path_factory.mktemp("program") / "h2q", "-DH2Q_MAIN")


@pytest.fixture(scope="session")
def open_native(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], CModel]:
    """The same, compiled for this processor, as README.md has it."""
    options = ("-shared", "-fPIC", "-O3", "-march=native")
    return load(build(tmp_path_factory.mktemp("native") / "runtime.so", *options))


@pytest.fixture(scope="session")
def new_model() -> Callable[..., ByteModel]:
    """A model whose every parameter says something."""

    def make(seed: int = 0, **changes: Any) -> ByteModel:
        torch.manual_seed(seed)
        made = ByteModel(ModelConfig(**{**SIZES, **changes}))
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                noise = torch.randn_like(parameter) * 0.2
                parameter.add_(noise if "emb" not in name else 2 * noise)
        return made.eval()

    return make
