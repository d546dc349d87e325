"""A law: an archive holds all that its decoder needs to learn as the coder did, whatever the preset."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from h2q.errors import UserError
from pipeline.compression.archive import read_archive
from pipeline.compression.compress import compress, decompress
from pipeline.compression.config import CompressionConfig
from pipeline.config import PRESETS, RunConfig

TEXT = b"Once more, and once more. " * 10
SIZES = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "fixed_rank": 1, "max_rank": 2, "seq_len": 16}


def toy(preset: RunConfig) -> RunConfig:
    """The preset in all but its sizes, and it learns so fast that a few bytes tell."""
    ngrams = "2:30x4,4:30x4" if preset.model.ngrams else ""
    model, training = replace(preset.model, **SIZES, ngrams=ngrams), replace(preset.training, learning_rate=0.05)
    return replace(preset, model=model, training=training)


@pytest.fixture
def coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The archive of a text by a preset at toy size."""
    monkeypatch.setitem(PRESETS, request.param, toy(PRESETS[request.param]))
    (tmp_path / "text").write_bytes(TEXT)
    compress(CompressionConfig(file=str(tmp_path / "text"), preset=request.param), lambda done, size: None)
    return tmp_path / "text.h2q"


def back(archive: Path) -> bytes:
    options = CompressionConfig(file=str(archive), decompress=True, output=str(archive.with_name("back")))
    return decompress(options, lambda done, size: None).path.read_bytes()


@pytest.mark.parametrize("coded", sorted(set(PRESETS) - {"senses"}), indirect=True)
def test_a_file_comes_back_from_the_archive_of_every_preset_of_bytes(coded: Path) -> None:
    assert back(coded) == TEXT


@pytest.mark.parametrize("coded", ["laptop"], indirect=True)
@pytest.mark.parametrize("change", ["weights", "code", "size"])
@pytest.mark.parametrize(
    ("machine", "why"),
    [(None, "it is damaged, for it was made with the same as here"), ("torch 1 on z80", "decompress it there")],
)
def test_an_archive_that_does_not_decode_here_is_one_line_and_nothing_is_written(
    coded: Path, change: str, machine: str | None, why: str
) -> None:
    """As on another machine, but at once: other weights are drawn, or no byte has such a code."""
    archive = read_archive(coded)
    archive = replace(archive, machine=machine or archive.machine, size=archive.size + 90 * (change == "size"))
    assert archive.config is not None
    archive.config["training"]["seed"] += change == "weights"
    code = np.full_like(archive.code, 2**32 - 1) if change == "code" else archive.code
    replace(archive, code=code).write(coded)
    with pytest.raises(UserError, match=f"decodes to other bytes than were coded: .*{why}"):
        back(coded)
    assert not coded.with_name("back").exists()
