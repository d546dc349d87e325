"""Small files that claim to be large: one line, and no more memory than is stated, however much they promise."""

import gzip
import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.model import ByteModel
from h2q.published import from_state_dict
from jobs.import_published import read
from pipeline.compression.archive import Archive, read_archive
from pipeline.compression.compress import decompress
from pipeline.compression.config import CompressionConfig
from pipeline.config import PRESETS, RunConfig
from pipeline.prepare.plain import run_unpacking, unpackings
from pipeline.runs.checkpoint import Checkpoint, read_checkpoint, to_host, write_checkpoint
from pipeline.storage.json_file import LIMIT, read_json
from pipeline.storage.listing import find

BOMB = 1 << 30
"""Bytes, or numbers, that the files claim."""
MOST = 1 << 27
"""Bytes that it costs to find out, the interpreter aside."""
CONFIG = RunConfig(model=ModelConfig(dim=16, depth=1, heads=1, factor=2, fixed_rank=1, seq_len=4))


def refused(use: Callable[[], object], rule: str) -> None:
    """The use ends with the rule, and has taken no more than MOST meanwhile (Linux tells, since it is asked anew)."""

    def bytes_of(kind: str) -> int:
        return 1024 * int(re.findall(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())[0])

    Path("/proc/self/clear_refs").write_text("5")
    before = bytes_of("VmRSS")
    with pytest.raises(UserError, match=rule) as caught:
        use()
    assert "\n" not in str(caught.value)
    assert bytes_of("VmHWM") - before < MOST


def sparse(path: Path, head: bytes = b"", size: int = BOMB) -> None:
    """A file of so many bytes, of which a disk holds only the first."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    model, state = ByteModel(CONFIG.model), {"step": 1, "config": CONFIG.to_dict()}
    return write_checkpoint(tmp_path, Checkpoint(model=to_host(model.state_dict()), optimizer={}, state=state))


def commit(folder: Path) -> None:
    """Vouch for what the folder holds now."""
    files = [file for file in folder.iterdir() if file.name != "commit.json"]
    listed = {file.name: {"bytes": file.stat().st_size, "sha256": _digest(file)} for file in files}
    (folder / "commit.json").write_text(json.dumps({"format": 1, "files": listed}))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def header(**tensors: list[int]) -> bytes:
    told = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, MOST]} for name, shape in tensors.items()}
    text = json.dumps(told).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        (header(bank=[MOST // 4]), "model.safetensors"),
        ((BOMB // 2).to_bytes(8, "little") + b"{", "its header must have at most"),
        (b"\xff" * 8, "its header must have at most"),
    ],
)
def test_a_file_of_tensors(saved: Path, head: bytes, rule: str) -> None:
    sparse(saved / "model.safetensors", head, 2 * MOST)  # it is hashed: no larger than this
    commit(saved)
    refused(lambda: read_checkpoint(saved), rule)


@pytest.mark.parametrize(
    "claimed",
    [{"dim": 1 << 24}, {"depth": 1 << 30}, {"seq_len": BOMB}, {"vocab": BOMB}, {"dim": 1 << 20, "kind": "dense"}],
    ids=repr,
)
def test_a_config_that_claims_a_large_model(saved: Path, claimed: dict[str, Any]) -> None:
    state = json.loads((saved / "state.json").read_text())
    state["config"]["model"] |= claimed
    (saved / "state.json").write_text(json.dumps(state))
    commit(saved)
    refused(lambda: read_checkpoint(saved), r"must have more than \d+ bytes|depth must be at most 4096")


def test_a_file_of_json(tmp_path: Path) -> None:
    sparse(tmp_path / "config.json", b"{")
    refused(lambda: read_json(tmp_path / "config.json", dict, ""), f"must have at most {LIMIT} bytes")


def packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(MOST // 2))


@pytest.mark.parametrize(
    ("write", "rule"),
    [
        (packed, "its records are packed"),
        (lambda path: torch.save({"model": {"a": torch.zeros(1).expand(BOMB)}}, path), "claims to hold 1,073,741,824"),
        (lambda path: torch.save({"model": _Pickled(bytearray, BOMB)}, path), "cannot be read safely"),
        (lambda path: torch.save({"model": _Pickled(torch.zeros, BOMB)}, path), "cannot be read safely"),
        (lambda path: torch.save({"model": {"a": torch.zeros(9)}}, path, _use_new_zipfile_serialization=False), "safe"),
        (sparse, "cannot be read safely"),
    ],
)
def test_a_published_file(tmp_path: Path, write: Callable[[Path], object], rule: str) -> None:
    path = tmp_path / "file.pt"
    write(path)
    refused(lambda: read(path), rule)


def test_a_published_file_of_a_model_that_is_large() -> None:
    """Few numbers, but each of many layers would have as many terms as the bank."""
    checkpoint = {
        "structure_bank.factors_A": torch.zeros(1024, 4, 16, 16),
        "token_emb.weight": torch.zeros(8, 2 * 64 * 256),
        "pos_emb": torch.zeros(1, 4, 2 * 64 * 256),
        "layers.0.attn.q_proj.factors_B": torch.zeros(1, 256, 256),
        "layers.0.ffn_1.factors_B": torch.zeros(1, 256, 256),
        **{f"layers.{block}.norm1.weight": torch.zeros(1) for block in range(120)},
    }
    refused(lambda: from_state_dict(checkpoint), "calls for a model of 48,[0-9,]+ parameters")


class _Pickled:
    """What calls a function when it is read."""

    def __init__(self, function: Callable, argument: int) -> None:
        self._call = function, (argument,)

    def __reduce__(self) -> tuple:
        return self._call


def tar_header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def tar_fields(kind: bytes, fields: dict[str, str]) -> bytes:
    """A header of pax with these fields: each `LENGTH NAME=VALUE`, where the length has three digits."""
    text = "".join(f"{len(name) + len(value) + 6:03d} {name}={value}\n" for name, value in fields.items()).encode()
    return tar_header(kind, len(text)) + text.ljust(-(-len(text) // 512) * 512, b"\0")


SPARSE = {
    "0.0": {"GNU.sparse.size": str(BOMB << 10), "GNU.sparse.numblocks": "0"},
    "0.1": {"GNU.sparse.size": str(BOMB << 10), "GNU.sparse.map": "0,0"},
    "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(BOMB << 10)},
}
LARGE = [b"\n" * (1 << 20)] * (2 * MOST >> 20)
TARS: dict[str, tuple[Callable[[], Iterable[bytes]], str]] = {
    **{
        f"a header {chr(kind)}": (
            lambda kind=kind: [tar_header(bytes([kind]), 2 * MOST), *LARGE],
            "at most 65,536 bytes",
        )
        for kind in b"xgXLK"
    },
    **{
        f"sparse {version}": (
            lambda fields=fields: [tar_fields(b"x", fields), tar_header(b"0", 2 * MOST), b"%d\n" % MOST, *LARGE],
            "a sparse file",
        )
        for version, fields in SPARSE.items()
    },
    "sparse, of old": (lambda: [tar_header(b"S", 0), *LARGE], "a sparse file"),
    "fields for all": (
        lambda: (
            part
            for number in range(2000)
            for part in (tar_fields(b"g", {f"{number}.{i}": "x" * 800 for i in range(70)}), tar_header(b"0", 0))
        ),
        "at most 100 fields",
    ),
    "headers before headers": (lambda: [tar_header(b"x", 1 << 16) + bytes(1 << 16)] * 2000, "recursion"),
}


@pytest.mark.parametrize("kind", TARS)
def test_a_tar_whose_headers_are_large(tmp_path: Path, kind: str) -> None:
    make, rule = TARS[kind]
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.writelines(make())
    (work,) = unpackings(find(str(tmp_path)), tmp_path / "out", "text", "error", 1)
    refused(lambda: run_unpacking(work.to_json()), rule)


@pytest.mark.parametrize("claimed", [{"size": BOMB}, {"lanes": BOMB}, {"threads": BOMB}, {"stride": -1}], ids=repr)
def test_an_archive(tmp_path: Path, claimed: dict[str, int]) -> None:
    archive = write_archive(tmp_path, **claimed)
    refused(lambda: read_archive(archive), rf"is damaged: {next(iter(claimed))} should be")


@pytest.mark.parametrize("claimed", [{"dim": 192 << 13}, {"vocab": BOMB}, {"depth": BOMB}], ids=repr)
def test_an_archive_whose_model_is_large(tmp_path: Path, claimed: dict[str, int]) -> None:
    parts = {name: PRESETS["laptop"].to_dict()[name] for name in ("model", "training", "growth")}
    archive = write_archive(tmp_path, config=parts | {"model": parts["model"] | claimed})
    options = CompressionConfig(file=str(archive), decompress=True)
    refused(lambda: decompress(options, lambda done, size: None), "needs a model of|depth must be at most 4096")


def write_archive(folder: Path, **told: Any) -> Path:
    sizes: dict[str, Any] = {"size": 9, "stride": 1, "lanes": 1, "threads": 1} | told
    path = folder / "file.h2q"
    Archive(code=np.zeros(2, np.uint32), sha256="", machine="a machine", **sizes).write(path)
    return path


def test_an_archive_of_a_gigabyte(tmp_path: Path) -> None:
    sparse(tmp_path / "file.h2q")
    refused(lambda: read_archive(tmp_path / "file.h2q"), "an archive has at most 268435456 bytes")
