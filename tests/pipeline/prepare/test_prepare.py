"""Promises of preparation: exact bytes and order, resumable, deterministic."""

import gzip
import hashlib
import shutil
import struct
import wave
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus, open_corpus
from pipeline.prepare.prepare import Event, prepare, split_sizes


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
    files = [{path.name: path.read_bytes() for path in corpus.folder.glob("*.arrow")} for corpus in made]
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


@settings(max_examples=10, deadline=None)  # a job of Ray Data each
@given(
    documents=st.lists(
        st.one_of(st.just(b""), st.text(st.characters(codec="utf-8"), max_size=60).map(str.encode), st.just(b"\r\n\n")),
        min_size=1,
        max_size=12,
    ).filter(any),
    shard_bytes=st.integers(20, 300),
    workers=st.sampled_from([0, 1, 2]),
)
@example(documents=[b"\r\n\n", b""], shard_bytes=20, workers=0)
def test_order_and_bytes_with_any_documents_blocks_and_workers(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, documents: list[bytes], shard_bytes: int, workers: int
) -> None:
    from ray.data import DataContext, ExecutionResources

    folder = tmp_path_factory.mktemp("any")
    for split in ("train", "validation", "test"):
        (folder / "text" / split).mkdir(parents=True)
        for number, document in enumerate(documents):
            (folder / "text" / split / f"{number:03d}").write_bytes(document)
    config = CorpusConfig(path=str(folder / "text"), prepared=str(folder / "data"), shard_bytes=shard_bytes)
    options = DataContext.get_current().execution_options
    options.resource_limits = ExecutionResources(cpu=workers or None)
    corpus = prepare(config, local=workers == 0)
    options.resource_limits = ExecutionResources()
    for split in corpus.splits.values():
        assert split.read(0, len(split)).tobytes() == b"".join(documents)
        sizes = [len(document) for document in documents]
        assert split.document_starts().tolist() == np.cumsum([0, *sizes])[:-1].tolist()
        assert split.sha256 == hashlib.sha256(b"".join(documents)).hexdigest()


def png(width: int, height: int) -> bytes:
    """A valid PNG file of noise."""
    noise = np.random.default_rng(width).integers(0, 256, (height, 1 + 3 * width), dtype=np.uint8)
    noise[:, 0] = 0

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(noise.tobytes())) + chunk(b"IEND", b"")


def test_sounds_and_images_come_back_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.png").write_bytes(png(5 + number, 7))
        with wave.open(str(folder / f"{number:02d}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes((np.sin(np.arange(500 + number) / 5) * 9999).astype(np.int16).tobytes())
    corpus = prepare(
        CorpusConfig(path=str(folder), kind="bytes", prepared=str(tmp_path / "data"), shard_bytes=1 << 12), local=True
    )
    back = tmp_path / "back"
    back.mkdir()
    for split in corpus.splits.values():
        starts, at = split.document_starts().tolist(), 0
        for name, size in corpus.manifest["splits"][split.name]["inputs"]:
            assert at in starts
            (back / name).write_bytes(split.read(at, at + size).tobytes())
            at += size
        assert at == len(split) and len(starts) == split.documents
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    with wave.open(str(back / "03.wav")) as sound:
        assert sound.getnframes() == 503
    assert corpus.validation.bytes > 0 and corpus.test.bytes > 0
    train = np.frombuffer(content(corpus, "train"), np.uint8)
    values, counts = np.unique(train, return_counts=True)
    said = f"{len(values)} of the 256 byte values occur in train, most often {values[counts.argmax()]:#04x} "
    assert [note for note in corpus.notes if said in note and f" {counts.max() / len(train):.1%}" in note]


@pytest.mark.parametrize("local", [True, False])
def test_rows_are_dealt_out_once_each_and_equal_rows_stay_together(
    tmp_path: Path, ray_cluster: None, local: bool
) -> None:
    texts = [f"<row {number % 400} é>" for number in range(1000)]
    (tmp_path / "tables").mkdir()
    for part in range(2):
        rows = {"id": range(500), "text": texts[500 * part : 500 * part + 500]}
        pq.write_table(pa.table(rows), tmp_path / "tables" / f"{part}.parquet", row_group_size=90)
    (tmp_path / "tables" / "README.md").write_text("about")
    config = CorpusConfig(path=str(tmp_path / "tables"), prepared=str(tmp_path / "data"), shard_bytes=1500)
    corpus = prepare(config, local=local)
    found = {name: content(corpus, name).decode().split("<")[1:] for name in corpus.splits}
    assert sorted("<" + row for rows in found.values() for row in rows) == sorted(texts)
    sides = [set(rows) for rows in found.values()]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    for rows in found.values():
        order = [texts.index("<" + row) for row in rows]
        assert order[: len(set(order))] == sorted(set(order)), "rows keep their order"
    assert 0.05 < corpus.validation.bytes / corpus.manifest["bytes"] < 0.15
    assert corpus.train.documents == len(found["train"])
    other = prepare(CorpusConfig.from_dict(config.to_dict() | {"seed": 1}), local=True)
    assert content(other, "test") != content(corpus, "test")


def test_whole_files_are_dealt_out_by_seed_and_never_cut(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    texts = {f"{number:03d}.txt": f"[{number}]".encode() * (20 + number % 7) for number in range(100)}
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    seeds = []
    for seed in (0, 1):
        corpus = prepare(CorpusConfig(path=str(folder), prepared=str(tmp_path / "data"), seed=seed), local=True)
        inputs = {name: [label for label, _ in split["inputs"]] for name, split in corpus.manifest["splits"].items()}
        assert sorted(label for labels in inputs.values() for label in labels) == sorted(texts)
        for name, labels in inputs.items():
            assert labels == sorted(labels) and content(corpus, name) == b"".join(texts[label] for label in labels)
        assert 0.05 <= corpus.validation.bytes / corpus.manifest["bytes"] <= 0.2
        seeds.append(inputs)
    assert seeds[0] != seeds[1]


def test_one_long_text_is_cut_at_line_ends_and_the_note_says_so(tmp_path: Path) -> None:
    text = "".join(f"line {number} é\n" for number in range(1000)).encode()
    (tmp_path / "text.txt").write_bytes(text)
    corpus = prepare(CorpusConfig(path=str(tmp_path / "text.txt"), prepared=str(tmp_path / "data")), local=True)
    parts = [content(corpus, split) for split in ("train", "validation", "test")]
    assert b"".join(parts) == text and all(part.endswith(b"\n") for part in parts)
    assert 0.79 < len(parts[0]) / len(text) < 0.81
    assert "at line ends (too few documents to deal out whole: 1)" in corpus.notes[0]


def test_a_file_that_changes_is_prepared_anew_and_options_have_folders_of_their_own(
    named: Path, tmp_path: Path
) -> None:
    config = CorpusConfig(path=str(named), prepared=str(tmp_path / "data"))
    first = prepare(config, local=True)
    (named / "train.txt").write_bytes(b"another text\n" * 99)
    second = prepare(config, local=True)
    assert second.folder != first.folder and content(second, "train").startswith(b"another")
    assert open_corpus(first.folder).sha256 == first.sha256
    assert prepare(CorpusConfig.from_dict(config.to_dict() | {"shard_bytes": 99}), local=True).sha256 == second.sha256


def test_the_same_input_gives_the_same_files_bit_for_bit(named: Path, tmp_path: Path) -> None:
    config = CorpusConfig(path=str(named), prepared=str(tmp_path / "a"), shard_bytes=800)
    folders = [prepare(config, local=True).folder]
    folders.append(
        prepare(CorpusConfig.from_dict(config.to_dict() | {"prepared": str(tmp_path / "b")}), local=True).folder
    )
    files = [
        {path.name: path.read_bytes() for path in folder.glob("*") if path.name != ".verified.json"}
        for folder in folders
    ]
    files = [{name: data.replace(b"/a ", b"/b ") for name, data in made.items()} for made in files]
    assert files[0] == files[1] and "manifest.json" in files[0]


def test_the_manifest_states_what_it_promises(named: Path, tmp_path: Path) -> None:
    corpus = prepare(CorpusConfig(path=str(named), prepared=str(tmp_path / "data"), shard_bytes=700), local=True)
    told = corpus.manifest
    assert told["version"] == 1 and told["options"]["shard_bytes"] == 700 and len(told["fingerprint"]) == 64
    train = told["splits"]["train"]
    data = (named / "train.txt").read_bytes()
    assert train["sha256"] == hashlib.sha256(data).hexdigest() and train["histogram"] == np.bincount(
        list(data)
    ).tolist() + [0] * (256 - max(data) - 1)
    shares = np.bincount(list(data)) / len(data)
    assert train["order0_bpb"] == pytest.approx(-sum(share * np.log2(share) for share in shares if share))
    assert train["gzip_bpb"] == pytest.approx(8 * len(zlib.compress(data, 9, wbits=31)) / len(data))
    for shard in train["shards"]:
        assert hashlib.sha256((corpus.folder / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]
    assert sum(shard["bytes"] for shard in train["shards"]) == train["bytes"] == len(data)


def test_real_wikitext_is_exact_and_its_articles_are_found(wikitext: Path, tmp_path: Path) -> None:
    corpus = prepare(CorpusConfig(path=str(wikitext), prepared=str(tmp_path)), local=True)
    assert corpus.test.sha256 == "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
    assert corpus.test.documents == 60 and corpus.train.documents + corpus.validation.documents == 60
    assert corpus.test.gzip_bpb == pytest.approx(2.757, abs=5e-4) and corpus.test.xz_bpb == pytest.approx(
        2.282, abs=5e-4
    )


@pytest.mark.slow
def test_a_file_of_three_gigabytes(tmp_path: Path, ray_cluster: None) -> None:
    digest, rng = hashlib.sha256(), np.random.default_rng(0)
    with open(tmp_path / "train.bin", "wb") as file:
        for _ in range(48):
            part = rng.integers(0, 256, 1 << 26, dtype=np.uint8).tobytes()
            file.write(part)
            digest.update(part)
    for split in ("valid", "test"):
        (tmp_path / f"{split}.bin").write_bytes(b"1")
    config = CorpusConfig(path=f"{tmp_path}/*.bin", kind="bytes", prepared=str(tmp_path / "data"))
    corpus = prepare(config)
    assert corpus.train.bytes == 48 << 26 > 3e9 and corpus.train.sha256 == digest.hexdigest()
    assert len(corpus.train.shards) == 48 and corpus.test.bytes == 1


def test_sizes_of_splits_are_known_before_they_are_prepared(named: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "data"
    for path, count in (("text", 1.0), ("text/train.txt", 1.0), ("rows.jsonl", 0.4)):
        if path == "rows.jsonl":
            (tmp_path / path).write_text("".join(f'{{"text": "row number {i}"}}\n' for i in range(2000)))
        config = CorpusConfig(path=str(tmp_path / path), prepared=str(prepared))
        told = split_sizes(config)
        assert told is not None and not prepared.exists()
        corpus = prepare(config, local=True)
        exact = {name: len(split) for name, split in corpus.splits.items()}
        assert split_sizes(config) == exact
        for name in ("validation", "test"):  # of tables the names of columns are counted in
            assert exact[name] <= told[name] <= exact[name] / count + 100
        shutil.rmtree(prepared)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"line\n" * 500))
    packed = CorpusConfig(path=str(tmp_path / "a.txt.gz"), prepared=str(prepared))
    assert split_sizes(packed) is None and split_sizes(CorpusConfig(hub="some/where", prepared=str(prepared))) is None
    assert split_sizes(CorpusConfig(source="manual", prepared=str(prepared))) is not None
    assert not prepared.exists()
    with pytest.raises(UserError, match="missing"):
        split_sizes(CorpusConfig(path=str(tmp_path / "missing"), prepared=str(prepared)))
