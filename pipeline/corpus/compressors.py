"""What general compressors make of the same bytes, each at its strongest setting."""

import bz2
import importlib
import lzma
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

XZ_DICTIONARY = 64 << 20
"""Bytes that `xz -9e` looks back."""

_BLOCK = 1 << 20

Blocks = Iterable[np.ndarray]
"""Data in order, uint8."""


def compressors() -> dict[str, Callable[[Blocks, int], int]]:
    """By the name of the command line: (blocks, their bytes) → compressed bytes. zstd and brotli where they are
    installed, as a Python module or as a command.

    Not Arrow's codecs, which are always there: its streams take no level, its one-shot functions the whole input in
    memory, without an end when interrupted, and its brotli looks back 4 MB, where lgwin 24 is 16.
    """
    sizes: dict[str, Callable[[Blocks, int], int]] = {
        "gzip -9": lambda blocks, _: gzip_bytes(blocks),
        "bzip2 -9": lambda blocks, _: _fed(bz2.BZ2Compressor(9), "compress", blocks),
        "xz -9e": xz_bytes,
    }
    if zstandard := _module("zstandard"):
        sizes["zstd -22"] = lambda blocks, size: _fed(
            zstandard.ZstdCompressor(level=22).compressobj(size=size), "compress", blocks
        )
    elif zstd := shutil.which("zstd"):
        sizes["zstd -22"] = lambda blocks, size: _piped(
            [zstd, "-q", "-c", "--ultra", "-22", f"--stream-size={size}"], blocks
        )
    if brotli := _module("brotli"):
        sizes["brotli -11"] = lambda blocks, _: _fed(
            brotli.Compressor(quality=11, lgwin=24), "process", blocks, "finish"
        )
    elif command := shutil.which("brotli"):
        sizes["brotli -11"] = lambda blocks, _: _piped([command, "-q", "11", "-w", "24", "-c"], blocks)
    return sizes


def gzip_bytes(blocks: Blocks) -> int:
    """Size under `gzip -9`."""
    return _fed(zlib.compressobj(9, zlib.DEFLATED, 31), "compress", blocks)


def xz_bytes(blocks: Blocks, size: int) -> int:
    """Size of so many bytes under `xz -9e`."""
    # A dictionary no larger than the data gives the same size, where `xz -9e` would take 670 MB of memory.
    dictionary = min(max(4096, size), XZ_DICTIONARY)
    chain = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}
    return _fed(lzma.LZMACompressor(filters=[chain]), "compress", blocks)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _fed(compressor: Any, feed: str, blocks: Blocks, end: str = "flush") -> int:
    """What a streaming compressor returns, counted; compressing lets go of Python's lock."""
    size = sum(len(getattr(compressor, feed)(part)) for part in _parts(blocks))
    return size + len(getattr(compressor, end)())


def _piped(command: list[str], blocks: Blocks) -> int:
    """What a command makes of its standard input, counted."""
    with tempfile.TemporaryFile() as out:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            for part in _parts(blocks):
                process.stdin.write(part)
        assert process.returncode == 0, command
        return out.seek(0, 2)


def _parts(blocks: Blocks) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), _BLOCK):
            yield block[start : start + _BLOCK].tobytes()
