"""Laws of marked corpora: markers where documents begin, bytes everywhere else, however one reads."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from h2q.alphabet import MARKERS
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.lanes import Lanes, windows
from pipeline.corpus.prefetch import Prefetch
from pipeline.corpus.side_by_side import chunks, stretches
from pipeline.corpus.split import Split
from pipeline.prepare.manifest import command, fingerprint_of
from pipeline.prepare.prepare import prepare
from pipeline.prepare.sources import Source

DOCUMENTS = {
    "train": [b"", b"\0\0", *(bytes([65 + i]) * (7 * i) for i in range(9)), b""],
    "valid": [b"ab\0c", b"d" * 40],
    "test": [b"e" * 50],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CorpusConfig:
    """Of documents of many lengths, some empty, in several shards."""
    folder = tmp_path_factory.mktemp("files")
    for split, documents in DOCUMENTS.items():
        (folder / split).mkdir()
        for number, document in enumerate(documents):
            (folder / split / f"{number:02d}").write_bytes(document)
    prepared = str(tmp_path_factory.mktemp("prepared"))
    return CorpusConfig(path=str(folder), kind="bytes", markers=True, prepared=prepared, shard_bytes=50)


@pytest.fixture(scope="module")
def corpus(config: CorpusConfig) -> Corpus:
    return prepare(config, local=True)


def expected(split: str) -> list[int]:
    return [symbol for document in DOCUMENTS[split] for symbol in (MARKERS["bytes"], *document)]


def test_symbols_are_markers_where_documents_begin_and_bytes_elsewhere(corpus: Corpus) -> None:
    for name, split in {"train": corpus.train, "valid": corpus.validation, "test": corpus.test}.items():
        assert isinstance(split, Split)
        whole = split.read(0, len(split))
        assert whole.dtype == np.int16 and whole.tolist() == expected(name)
        assert np.flatnonzero(whole >= 256).tolist() == split.document_starts().tolist()
        assert np.concatenate(list(split.symbols())).tolist() == whole.tolist()
        last = len(DOCUMENTS[name]) - 1
        assert list(split.contents()) == DOCUMENTS[name] and list(split.contents([last])) == DOCUMENTS[name][-1:]
        assert np.concatenate(list(split.stream())).tolist() == np.where(whole < 256, whole, 0).tolist()
    assert len(corpus.train.shards) > 3 and corpus.train.alphabet == 260
    train = pickle.loads(pickle.dumps(corpus)).train
    for start in range(0, len(train), 7):
        for stop in (start, min(start + 1, len(train)), min(start + 60, len(train))):
            assert train.read(start, stop).tolist() == expected("train")[start:stop]


def test_of_the_beginning_no_more_shards_are_opened_than_it_needs(corpus: Corpus) -> None:
    starts = corpus.train.document_starts().tolist()
    for stop in range(0, len(corpus.train) + 1, 11):
        train = pickle.loads(pickle.dumps(corpus)).train
        assert train.document_starts(stop).tolist() == [start for start in starts if start < stop]
        needed = sum(end - shard.bytes < stop for end, shard in zip(train._ends, train.shards, strict=True))
        assert len(train._maps) == needed
    assert needed > 3


def test_what_reads_bytes_reads_symbols(corpus: Corpus) -> None:
    train, symbols = corpus.train, np.array(expected("train"))
    lanes = Lanes(train, lanes=3, seq_len=16)
    x, y = lanes.batch(0)
    edges = [i * len(symbols) // 3 for i in range(3)]
    assert x.tolist() == [symbols[at : at + 16].tolist() for at in edges]
    assert y.tolist() == [symbols[at + 1 : at + 17].tolist() for at in edges]
    with Prefetch(lanes) as batches:
        assert all(torch.equal(*pair) for pair in zip(batches(5), lanes.batch(5)))
    drawn = Lanes(train, lanes=3, seq_len=16, windows="random")
    for row, start in zip(drawn.rows(2), drawn.random_starts(2), strict=True):
        assert row.tolist() == symbols[start : start + 17].tolist()
    assert torch.cat([y.flatten() for _, y in windows(train, 16, 4)]).tolist() == symbols[1:].tolist()
    found = list(chunks(train, stretches(len(train), 2), 1000))
    assert len(found) == 1 and found[0][0].max() == MARKERS["bytes"]


def test_a_marked_corpus_is_one_of_its_own_and_the_unmarked_one_stays_as_it_was(
    config: CorpusConfig, corpus: Corpus
) -> None:
    plain = prepare(replace(config, markers=False), local=True)
    assert plain.folder != corpus.folder and plain.sha256 != corpus.sha256
    assert plain.train.dtype == np.uint8 and plain.train.read(0, len(plain.train)).tobytes() == b"".join(
        DOCUMENTS["train"]
    )
    assert plain.sha256 == "6e1150aabdb80e2b2dfc82c14e94c3033d9e8dd004546ffb6e2c85eb18dd3dc9", "of commit 55392cb"
    assert "marks" not in plain.manifest and corpus.manifest["marks"] == "bytes"
    assert "--corpus.markers " in command(config) and "markers" not in command(replace(config, markers=False))
    # What is 0 and what is a marker is part of what the corpus is.
    assert corpus.train.sha256 != plain.train.sha256


def test_fingerprints_are_those_of_before_there_were_markers() -> None:
    """Of commit 55392cb: what was prepared once is found again."""
    source = Source("n", "s", None, "o", {"path": "/text", "files": [["a.txt", 5, 7]]}, False, lambda plain: None)  # type: ignore[arg-type,return-value]
    golden = {
        "d1706fa96dbd736d42950e38db058765662e350c799f16a540f5c05c8ce2d0ca": CorpusConfig(),
        "6a3da321c5f2238b7edeb3fafe69d4daf4feea69870fc91a464c17d0862c7acc": CorpusConfig(kind="bytes", seed=3),
    }
    assert {fingerprint_of(source, config): config for config in golden.values()} == golden
    assert fingerprint_of(source, CorpusConfig(markers=True)) not in golden


@pytest.mark.parametrize("rows", [4, 400], ids=["cut at line ends", "dealt out whole"])
def test_markers_move_no_text_to_another_split(tmp_path: Path, rows: int) -> None:
    lines = [json.dumps({"text": f"{number}\n" * (number % 7 * 400 // rows)}) for number in range(rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    config = CorpusConfig(path=str(tmp_path / "rows.jsonl"), prepared=str(tmp_path / "data"))
    plain, marked = (prepare(replace(config, markers=on), local=True) for on in (False, True))
    for name, split in marked.splits.items():
        symbols, text = split.read(0, len(split)), plain.splits[name].read(0, len(plain.splits[name]))
        assert symbols[symbols < 256].tolist() == text.tolist() and len(text)
        assert (symbols >= 256).sum() == split.documents == plain.splits[name].documents
