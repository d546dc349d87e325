"""Compressors: what the commands of the same name say of the same bytes."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpus.compressors import compressors
from pipeline.evaluation.file_stream import RawFile

COMMANDS = {
    "gzip -9": "gzip -9c",
    "bzip2 -9": "bzip2 -9c",
    "xz -9e": "xz -9e -T1 -c",
    "zstd -22": "zstd -q --ultra -22 -c",
    "brotli -11": "brotli -q 11 -w 24 -c",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_size_is_that_of_the_command(name: str, text_folder: Path) -> None:
    path = text_folder / "wiki.train.raw"
    command = [*COMMANDS[name].split(), str(path)]
    if not shutil.which(command[0]):
        pytest.skip(f"no command {command[0]}")
    wanted = len(subprocess.run(command, check=True, capture_output=True).stdout)
    # gzip's own deflate is not zlib's, and writes the file's name.
    allowed = 40 if name == "gzip -9" else 8 if name == "zstd -22" else 0
    blocks = RawFile(path).stream()
    assert abs(compressors()[name](blocks, path.stat().st_size) - wanted) <= allowed


def test_blocks_do_not_matter() -> None:
    data = np.random.Generator(np.random.Philox(0)).integers(0, 9, 5000, dtype=np.uint8)
    for name, compress in compressors().items():
        assert compress([data], 5000) == compress(np.array_split(data, 7), 5000), name
