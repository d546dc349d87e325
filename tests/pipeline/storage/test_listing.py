"""What a file name, a folder or a glob stands for."""

from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.prepare.prepare import prepare
from pipeline.storage.listing import find
from pipeline.storage.path import UriPath
from pipeline.storage.uri import read


def test_a_store_that_is_out_of_reach_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot open nothing:"):
        prepare(CorpusConfig(path="nothing://bucket/text", prepared=str(tmp_path)), local=True)


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "b/c.txt", "b/d/e.txt"]),
        ("b/*", ["c.txt"]),
        ("b/**", ["c.txt", "d/e.txt"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_globs_find_files_in_the_order_of_their_bytes(
    tmp_path: Path, scheme: str, glob: str, expected: list[str]
) -> None:
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", ".hidden/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [file.label for file in find(f"{scheme}{tmp_path}/{glob}")] == expected


def test_names_with_odd_characters_are_read_through_uris(tmp_path: Path) -> None:
    (tmp_path / "a b%20?#.txt").write_text("odd")
    found = find(f"file://{tmp_path}")
    assert [read(file.path) for file in found] == [b"odd"]
    assert read(UriPath(f"file://{tmp_path}") / found[0].label) == b"odd"
