"""Which files are the corpus, and how it is told from another."""

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.events import Event
from pipeline.prepare.prepare import prepare
from pipeline.prepare.sources import check_places, files


@pytest.mark.parametrize("names", [("en/corpus", "de/corpus"), ("en", "de")])
def test_equal_names_sizes_and_times_in_two_folders_are_two_corpora(tmp_path: Path, names: tuple[str, str]) -> None:
    made = []
    for name, text in zip(names, (b"the cat \n", b"die Katz\n"), strict=True):
        file = tmp_path / name / "shard-00.txt"
        file.parent.mkdir(parents=True)
        file.write_bytes(text * 100)
        os.utime(file, (10**9, 10**9))
        made.append(prepare(CorpusConfig(path=str(file), prepared=str(tmp_path / "data")), local=True))
    assert made[0].sha256 != made[1].sha256 and b"Katz" in made[1].train.read(0, 20).tobytes()


def test_a_corpus_that_is_used_again_is_told_by_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"some text\n" * 100)
    config = CorpusConfig(path=str(tmp_path / "text.txt"), prepared=str(tmp_path / "data"))
    told: list[Event] = []
    corpus = prepare(config, local=True)
    prepare(config, local=True, on_event=told.append)
    assert [event.text.endswith(f"already prepared in {corpus.folder}, sha256 {corpus.sha256}") for event in told]


@pytest.mark.parametrize("kind", [".txt", ".csv"])
def test_twice_the_files_take_twice_the_work(tmp_path: Path, kind: str) -> None:
    """Counted in calls: listing and choosing 10,000 files took 55 s when each was compared with all."""

    def calls(count: int) -> int:
        folder, counted = tmp_path / str(count), 0
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:05d}{kind}").write_bytes(b"text\nx\n")
        (folder / "README.md").write_bytes(b"about")

        def count_call(frame: FrameType, event: str, arg: Any) -> None:
            nonlocal counted
            counted += event == "call"

        config = CorpusConfig(path=str(folder))
        sys.setprofile(count_call)
        try:
            files(config).contents(lambda packed: [])
        finally:
            sys.setprofile(None)
        return counted

    calls(10)  # imports
    assert calls(400) < 2.2 * calls(200)


def test_links_that_lead_to_the_corpus_again_add_nothing_and_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.txt").write_bytes(f"text {number}\n".encode() * 20)
    (folder / "all").symlink_to(folder)
    (folder / "best.txt").symlink_to(folder / "07.txt")
    corpus = prepare(CorpusConfig(path=str(folder), prepared=str(tmp_path / "data")), local=True)
    assert corpus.manifest["bytes"] == sum(path.stat().st_size for path in folder.glob("[0-9]*.txt"))
    assert any("listed once" in note and "all, best.txt" in note for note in corpus.notes)


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff"])
def test_names_that_are_not_utf8_are_prepared(tmp_path: Path, name: bytes) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    with open(os.fsencode(tmp_path) + b"/" + name + b"/" + name + b".txt", "wb") as file:
        file.write(b"some text\n" * 100)
    for path in (tmp_path, tmp_path / os.fsdecode(name)):
        prepared = str(tmp_path / f".data-{os.fsdecode(name)}")
        corpus = prepare(CorpusConfig(path=str(path), prepared=prepared), local=True)
        assert corpus.manifest["bytes"] == 1000 and corpus.train.read(0, 4).tobytes() == b"some"
        assert all(text.encode().isascii() for text in (corpus.name, *corpus.notes))


@pytest.mark.parametrize(("path", "said"), [("missing", "nothing is at"), ("*.txt", "no file is at")])
def test_what_is_not_there_is_told_without_reading_anything(tmp_path: Path, path: str, said: str) -> None:
    check_places(CorpusConfig(source="manual", path=f"{tmp_path}/{path}"))
    with pytest.raises(UserError, match=said):
        check_places(CorpusConfig(path=f"{tmp_path}/{path}"))


def test_a_place_where_nothing_can_be_prepared_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "T.txt").write_text("some text\n")
    for prepared in ("/proc/x", f"{tmp_path}/T.txt", f"{tmp_path}/T.txt/data"):
        with pytest.raises(UserError, match=r"choose another --corpus\.prepared"):
            check_places(CorpusConfig(path=f"{tmp_path}/T.txt", prepared=prepared))
    with pytest.raises(UserError, match="a URI must name a bucket"):
        check_places(CorpusConfig(path=f"{tmp_path}/T.txt", prepared="s3://"))
