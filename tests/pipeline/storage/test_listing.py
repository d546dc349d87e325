"""What a file name, a folder or a glob stands for."""

import os
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


@pytest.mark.parametrize("name", ["[2024] books", "a?", "*"])
def test_a_folder_whose_name_holds_wildcards_is_no_glob(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name / "b").mkdir(parents=True)
    (tmp_path / name / "a.txt").write_text("x")
    monkeypatch.chdir(tmp_path / name)
    for glob in ("*.txt", "[a]*", "./?.txt", f"{tmp_path}/{name}/*.txt", ".", f"{tmp_path}/[[*2a]*/a.txt"):
        assert [file.label.rpartition("/")[2] for file in find(glob)] == ["a.txt"]


def test_names_with_odd_characters_are_read_through_uris(tmp_path: Path) -> None:
    (tmp_path / "a b%20?#.txt").write_text("odd")
    found = find(f"file://{tmp_path}")
    assert [read(file.path) for file in found] == [b"odd"]
    assert read(UriPath(f"file://{tmp_path}") / found[0].label) == b"odd"


def test_what_several_names_lead_to_is_listed_once(tmp_path: Path) -> None:
    """A link to the own folder, links to files and folders within and without, and a hard link."""
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    for folder in (corpus / "sub", other / "deep"):
        folder.mkdir(parents=True)
    for file in (corpus / "real.txt", corpus / "sub" / "x.txt", other / "one.txt", other / "deep" / "two.txt"):
        file.write_text(file.name)
    (corpus / "a-loop").symlink_to(corpus)
    (corpus / "sub" / "up").symlink_to("..")
    (corpus / "a-link.txt").symlink_to(corpus / "real.txt")
    (corpus / "z-other").symlink_to(other)
    (corpus / "y-deep").symlink_to(other / "deep")
    (corpus / "one-again.txt").symlink_to(other / "one.txt")
    (corpus / "broken").symlink_to(tmp_path / "nothing")
    os.link(corpus / "sub" / "x.txt", corpus / "sub" / "y.txt")
    again: list[str] = []
    found = find(str(corpus), again)
    assert len({file.path.read_text() for file in found}) == len(found) == 4
    labels = {file.label for file in found}
    assert labels == {"one-again.txt", "real.txt", "sub/x.txt", "y-deep/two.txt"}
    assert {"a-loop", "sub/up", "sub/y.txt", "a-link.txt", "z-other/one.txt"} <= set(again)


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"\xff\xfe"])
def test_names_that_are_not_utf8_are_listed_printed_and_read(tmp_path: Path, name: bytes) -> None:
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        file.write(b"odd")
    (found,) = find(str(tmp_path))
    assert read(found.path) == b"odd" and found.label.encode().startswith(b"caf" if name[:1] == b"c" else b"\\udcff")
