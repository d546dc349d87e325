"""Writing through pyarrow's file systems, or beside them."""

import os
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.storage.uri import (
    info,
    make_folder,
    remove,
    remove_folder,
    size_of,
    sizes_in,
    write_atomic,
    write_blocks,
)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "missing" / "x", b"data")

    class Failing:
        def __buffer__(self, flags: int) -> memoryview:
            raise AssertionError

    with pytest.raises(TypeError):
        write_atomic(tmp_path / "y", Failing())
    assert list(tmp_path.iterdir()) == []


def test_a_link_goes_on_pointing_and_a_pipe_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    (tmp_path / "itself").symlink_to("itself")
    write_atomic(tmp_path / "itself", b"new")
    assert (tmp_path / "itself").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        write_atomic(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["caf\udce9", "\udcff"])
def test_folders_are_used_whose_names_are_not_utf8(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "inside"
    make_folder(folder)
    assert write_blocks(folder / name, [b"one", b"two"]) == size_of(folder) == info(folder / name).size == 6
    remove(folder / name)
    write_atomic(folder / "file", b"data")
    assert sizes_in(folder) == {"file": 4}
    remove_folder(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, "\U0001f642" * 63, "x"], ids=len)
def test_a_file_of_any_name_is_written(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, b"old")
    write_atomic(tmp_path / name, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"new")]
