"""Promises of preparation: exact bytes and order, resumable, deterministic."""

from pathlib import Path

import pytest

from h2q.config import UserError
from pipeline.config import CorpusConfig
from pipeline.prepare import Corpus, Event, open_corpus, prepare


def content(corpus: Corpus, split: str) -> bytes:
    part = corpus.splits[split]
    return part.read(0, len(part)).tobytes()


@pytest.fixture
def named(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "train.txt").write_bytes("één\r\n\n\u2028two\n\n".encode() * 500)
    (folder / "valid.txt").write_bytes(b"validation\n" * 30)
    (folder / "test.txt").write_bytes(b"t")
    return folder


def test_named_splits_come_back_byte_for_byte_and_are_reused(named: Path, tmp_path: Path) -> None:
    config = CorpusConfig(path=str(named), prepared=str(tmp_path / "data"), shard_bytes=1001)
    corpus = prepare(config, local=True)
    assert content(corpus, "train") == (named / "train.txt").read_bytes()
    assert content(corpus, "validation") == (named / "valid.txt").read_bytes()
    assert content(corpus, "test") == b"t"
    told: list[Event] = []
    again = prepare(config, local=True, on_event=told.append)
    assert again.sha256 == corpus.sha256 and "already prepared" in told[0].text
    assert open_corpus(corpus.folder).sha256 == corpus.sha256


def test_ray_and_a_plain_loop_write_the_same_files(named: Path, tmp_path: Path, ray_cluster: None) -> None:
    made = [
        prepare(CorpusConfig(path=str(named), prepared=str(tmp_path / name), shard_bytes=700), local=name == "loop")
        for name in ("loop", "ray")
    ]
    files = [{path.name: path.read_bytes() for path in Path(corpus.folder).glob("*.arrow")} for corpus in made]
    assert files[0] == files[1] and len(files[0]) > 8


def test_missing_splits_are_cut_from_others_and_the_notes_say_so(tmp_path: Path) -> None:
    article = " \n = Title {} = \n \n Some words about it . \n \n"
    folder = tmp_path / "wiki"
    folder.mkdir()
    text = "".join(article.format(i) for i in range(50)).encode()
    (folder / "wiki.valid.raw").write_bytes(text)
    (folder / "wiki.test.raw").write_bytes(text)
    (folder / "README.md").write_bytes(b"not a corpus")
    corpus = prepare(CorpusConfig(path=str(folder), prepared=str(tmp_path / "data")), local=True)
    assert content(corpus, "test") == text
    assert corpus.train.documents == 45 and corpus.validation.documents == 5
    assert any("cut from wiki.valid.raw" in note for note in corpus.notes)
    assert any("README.md" in note for note in corpus.notes)


def test_the_offline_default_is_english_of_half_a_megabyte(tmp_path: Path) -> None:
    corpus = prepare(CorpusConfig(source="manual", prepared=str(tmp_path)), local=True)
    assert corpus.manifest["bytes"] > 400_000 and "Python" in corpus.name
    assert b"statement" in content(corpus, "train")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "nothing is at"),
        (lambda folder: folder.mkdir(), "no file is at"),
        (lambda folder: folder.write_bytes(b""), "found 0 bytes"),
        (lambda folder: folder.write_bytes(b"a" * 99 + b"\xff" + b"b" * 99), "at byte 99 is not valid UTF-8"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_one_clear_line(tmp_path: Path, make, said: str) -> None:
    make(tmp_path / "corpus")
    with pytest.raises(UserError, match=said):
        prepare(CorpusConfig(path=str(tmp_path / "corpus"), prepared=str(tmp_path / "data")), local=True)
