"""Compressed files, archives, other encodings and JSON arrays are read as what they hold, in bounded memory."""

import bz2
import codecs
import gc
import gzip
import io
import json
import lzma
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus
from pipeline.prepare.encodings import encoding_of
from pipeline.prepare.packing import Stream, leaves, packing_of
from pipeline.prepare.plain import not_plain, run_unpacking, unpackings
from pipeline.prepare.prepare import prepare
from pipeline.storage.listing import find

TEXT = "".join(f"line {number} of text, é and \U0001f642\n" for number in range(500)).encode()


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as file:
            file.write(data)
        return sink.getvalue().to_pybytes()

    return compress


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
    "zip": lambda data: zipped({"text.txt": data}),
    "tar": lambda data: tarred({"text.txt": data}),
    "tgz": lambda data: gzip.compress(tarred({"./text.txt": data})),
}


ENCRYPTED = bytearray(zipped({"a": TEXT}))
"""Says so of its one file, there and in its directory."""
ENCRYPTED[6] = ENCRYPTED[ENCRYPTED.index(b"PK\x01\x02") + 8] = 1


def made(tmp_path: Path, path: Path | None = None, local: bool = True, **options) -> Corpus:
    config = CorpusConfig(path=str(path or tmp_path / "in"), prepared=str(tmp_path / "data"), **options)
    corpus = prepare(config, local=local)
    assert not (corpus.folder / ".unpacked").exists()
    return corpus


def content(corpus: Corpus) -> bytes:
    return b"".join(split.read(0, len(split)).tobytes() for split in corpus.splits.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["text.txt.{}", "dump"])
@pytest.mark.parametrize("kind", PACKED)
def test_packed_text_is_read_as_text_whatever_its_name(tmp_path: Path, folder: Path, kind: str, name: str) -> None:
    (folder / name.format(kind)).write_bytes(PACKED[kind](TEXT))
    corpus = made(tmp_path)
    assert content(corpus) == TEXT
    assert any(f"read as what it holds ({packing_of(PACKED[kind](TEXT))}" in note for note in corpus.notes)


def test_a_link_in_an_archive_is_no_document(tmp_path: Path, folder: Path) -> None:
    link, sink = zipfile.ZipInfo("link.txt"), io.BytesIO()
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(link, "a.txt")
        archive.writestr("a.txt", TEXT)
    (folder / "a.zip").write_bytes(sink.getvalue())
    assert content(made(tmp_path)) == TEXT


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_streams_of_which_one_follows_another_are_read_to_the_end(tmp_path: Path, folder: Path, kind: str) -> None:
    (folder / f"text.{kind}").write_bytes(PACKED[kind](TEXT) + PACKED[kind](b"the end\n" * 99))
    assert content(made(tmp_path)) == TEXT + b"the end\n" * 99


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_cut_off_is_named_and_nothing_is_left(tmp_path: Path, folder: Path, kind: str) -> None:
    whole = PACKED[kind](TEXT)
    (folder / f"text.{kind}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"in/text.{kind} cannot be unpacked: .*; mend or remove the file"):
        made(tmp_path)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip", "zst"])
def test_a_bomb_takes_room_on_the_disk_not_in_memory(tmp_path: Path, folder: Path, kind: str) -> None:
    size, allowed = 24 << 20, 12 << 20
    (folder / f"bomb.{kind}").write_bytes(PACKED[kind](b"\n" * size))
    (work,) = unpackings(find(str(folder)), tmp_path / "out", "text", "error", 1)
    before = pa.default_memory_pool().max_memory()
    tracemalloc.start()
    result = run_unpacking(work.to_json())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result["files"][0][0]["size"] == size
    assert peak < allowed and pa.default_memory_pool().max_memory() <= max(before, allowed)


def test_xz_that_would_look_back_further_than_is_allowed_is_refused(tmp_path: Path, folder: Path) -> None:
    packed = bytearray(
        lzma.compress(TEXT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}], check=lzma.CHECK_NONE)
    )
    (folder / "text.xz").write_bytes(packed)
    with pytest.raises(UserError, match=r"text.xz cannot be unpacked: Memory usage limit"):
        made(tmp_path)


def test_what_packs_itself_is_refused(tmp_path: Path, folder: Path) -> None:
    data = TEXT
    for _ in range(4):
        data = gzip.compress(data)
    (folder / "text.gz").write_bytes(data)
    with pytest.raises(UserError, match="packed more than 3 times"):
        made(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.docx", zipped({"word/document.xml": b"<x/>"}), "a zip archive that is a .docx file is not read"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "a 7z file is not read"),
        ("a.pdf", b"%PDF-1.7\n" + bytes(99), "a PDF file is not read"),
        ("a.gz", gzip.compress(zipped({"a": b"text"})), "a zip archive inside another file is not read"),
        ("a.zip", zipped({"a": b"text"}, zipfile.ZIP_LZMA), "compressed in a way that is not read"),
        ("a.zip", b"PK\x03\x04", "a.zip cannot be unpacked: File is not a zip file"),
        ("a.zip", b"PK\x05\x06" + bytes(9), "a.zip cannot be unpacked: File is not a zip file"),
        ("a.zip", zipped({"a": TEXT})[:999], "a.zip cannot be unpacked: File is not a zip file"),
        ("a.zip", zipped({}), "found 0 bytes in a.zip"),
        ("a.zip", ENCRYPTED, "a.zip cannot be unpacked: a in it is encrypted"),
        ("a.gz", gzip.compress(TEXT)[:10], "a.gz cannot be unpacked: Compressed file ended"),
        ("a.zst", b"", "found 0 bytes"),
        ("a.zst", PACKED["zst"](TEXT)[:4], "a.zst cannot be unpacked: Truncated"),
        ("a.tar", tarred({"a": TEXT})[:1500], "a.tar cannot be unpacked: unexpected end of data"),
        ("a.txt", TEXT.decode().encode("utf-16")[:-1], "a.txt is not the UTF-16-LE that it begins as: truncated data"),
        ("a.gz", gzip.compress(b""), "found 0 bytes in a.gz"),
        ("a.zip", zipped({"a": b""}), "found 0 bytes in a.zip"),
        ("a.zip", zipped({"x/bad.txt": b"text\xff"}), "in/a.zip, x/bad.txt at byte 4 is not valid UTF-8"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # archives hold the time: two processes name others
)
def test_what_cannot_be_read_is_one_line_that_names_the_file(
    tmp_path: Path, folder: Path, name: str, data: bytes, said: str
) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(UserError) as told:
        made(tmp_path)
    assert said in str(told.value) and "\n" not in str(told.value)
    assert name in str(told.value) or not data


def test_archives_hold_splits_tables_and_files_to_be_left_out(tmp_path: Path, folder: Path) -> None:
    rows = {name: f'{{"text": "{name} row"}}\n'.encode() * 50 for name in ("train", "valid", "test")}
    members = {f"corpus/{name}.jsonl": data for name, data in rows.items()}
    (folder / "corpus.zip").write_bytes(zipped(members | {"__MACOSX/._train.jsonl": b"\0\1", "README.md": b"about"}))
    corpus = made(tmp_path)
    assert [corpus.splits[split].documents for split in ("train", "validation", "test")] == [50, 50, 50]
    assert corpus.train.read(0, 9).tobytes() == b"train row" and any("README.md" in note for note in corpus.notes)


@pytest.mark.parametrize("kind", ["gz", pytest.param("zst", marks=pytest.mark.slow)])
def test_ray_and_a_plain_loop_unpack_the_same(tmp_path: Path, folder: Path, kind: str, ray_cluster: None) -> None:
    for number in range(12):
        (folder / f"{number:02d}.txt.{kind}").write_bytes(PACKED[kind](TEXT + str(number).encode()))
    corpora = [made(tmp_path, local=local, shard_bytes=5000 + local) for local in (True, False)]
    assert corpora[0].sha256 == corpora[1].sha256


def test_compressed_tables_are_tables(tmp_path: Path, folder: Path) -> None:
    rows = [f"row {number}" for number in range(300)]
    (folder / "a.csv.gz").write_bytes(gzip.compress(("text\n" + "\n".join(rows)).encode()))
    (folder / "b.jsonl.zst").write_bytes(PACKED["zst"]("\n".join(json.dumps({"text": row}) for row in rows).encode()))
    (folder / "c.tsv").write_bytes(b"id\ttext\n1\tplain\n")
    corpus = made(tmp_path)
    assert corpus.manifest["documents"] == 601 and corpus.manifest["bytes"] == 2 * len("".join(rows)) + 5


def test_parquet_is_read_where_it_lies(tmp_path: Path, folder: Path) -> None:
    pq.write_table(pa.table({"text": [f"row {number}" for number in range(300)]}), folder / "a.parquet")
    assert not_plain(find(str(folder)), "error") == []
    assert not any("read as" in note for note in made(tmp_path).notes)


@pytest.mark.parametrize("kind", PACKED)
def test_unpacking_says_nothing_on_the_terminal(
    tmp_path: Path, folder: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / f"text.{kind}").write_bytes(PACKED[kind](TEXT))
    made(tmp_path)
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_bytes_are_never_unpacked(tmp_path: Path, folder: Path) -> None:
    packed = gzip.compress(TEXT)
    (folder / "text.gz").write_bytes(packed)
    assert content(made(tmp_path, kind="bytes")) == packed


@pytest.mark.parametrize(
    ("codec", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
def test_other_encodings_are_read_as_utf8_and_the_notes_say_so(
    tmp_path: Path, folder: Path, codec: str, mark: bytes
) -> None:
    (folder / "text.txt").write_bytes(mark + TEXT.decode().encode(codec))
    corpus = made(tmp_path)
    assert content(corpus) == TEXT
    assert any(codec.upper() in note and ("mark" in note) == bool(mark) for note in corpus.notes)
    assert content(made(tmp_path, invalid="keep")) == (folder / "text.txt").read_bytes()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_tables_in_utf16_are_read(tmp_path: Path, folder: Path, name: str) -> None:
    rows = {"a.csv": "text\né one\n", "a.jsonl": '{"text": "é one"}\n', "a.json": '[{"text": "é one"}]'}
    (folder / name).write_text(rows[name], encoding="utf-16")
    assert content(made(tmp_path)) == "é one".encode()


def test_half_a_surrogate_pair_in_utf16_is_refused_or_replaced(tmp_path: Path, folder: Path) -> None:
    (folder / "a.txt").write_bytes(codecs.BOM_UTF16_LE + "text ".encode("utf-16-le") * 9 + b"\x00\xd8a\x00")
    with pytest.raises(UserError, match="not the UTF-16-LE that it begins as: illegal UTF-16 surrogate"):
        made(tmp_path)
    assert "\ufffd" in content(made(tmp_path, invalid="replace")).decode()


@pytest.mark.parametrize("text", [TEXT, b"", b"a", b"\0" * 64, b"a\0" * 6, bytes(range(256))])
def test_plain_text_is_taken_for_nothing_else(text: bytes) -> None:
    assert encoding_of(text) is None and packing_of(text) is None


@pytest.mark.parametrize(  # the last of 1 MiB, the block that is read at a time, and more
    ("rows", "indent"), [(3, None), (3, 2), (600, None), pytest.param(600, 2, marks=pytest.mark.ray)]
)
def test_a_json_array_is_a_table(tmp_path: Path, folder: Path, rows: int, indent: int | None) -> None:
    texts = [f'[{number}] é, "quoted"\n' + "x" * (90_000 if number == 1 else 3 * rows) for number in range(rows)]
    array = [{"id": number, "text": text} for number, text in enumerate(texts)]
    (folder / "train.json").write_text(json.dumps(array, indent=indent, ensure_ascii=rows == 3))
    (folder / "config.json").write_text('{"about": "no table"}')
    corpus = made(tmp_path, holdout=0.0)
    assert content(corpus) == "".join(texts).encode()
    assert any("JSON array" in note for note in corpus.notes) and any("config.json" in note for note in corpus.notes)


@pytest.mark.parametrize("between", ["", "\n", "\n\n", " " * 300_000])
def test_arrays_that_follow_one_another_are_one_table(tmp_path: Path, folder: Path, between: str) -> None:
    arrays = [json.dumps([{"text": f"{number} "}] * many) for number, many in enumerate((2, 0, 1))]
    (folder / "a.json").write_text(between.join(arrays))
    assert content(made(tmp_path, holdout=0.0)) == b"0 0 2 "


def test_json_of_texts_and_of_lines_are_tables_too(tmp_path: Path, folder: Path) -> None:
    (folder / "a.json").write_text(json.dumps(["one ", "two ", "\ud800"]))
    (folder / "b.json").write_text('{"text": "three "}\n{"text": "four"}\n')
    assert content(made(tmp_path, holdout=0.0, invalid="replace")).decode() == "one two \ufffdthree four"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ('[{"text": "a"}, 5]', "element 1 of the array must be an object or a text, found 5"),
        ('[{"text": "a"}', "the array does not end"),
        ('[{"text": "a"}]\n[{"text": "b"}', "the array does not end"),
        ('[{"text": "a"}]\n{"text": "b"}', "only another array may follow an array, found '{"),
        ('[{"text": "a"}]' + " " * 300_000 + "]", "only another array may follow an array, found ']'"),
        ('[{"text": "a"}, {"text" "b"}' + " " * 99, "Expecting ':'"),
        ('[{"text": "' + "[" * 9, "the array does not end"),
        ("[{" * 100_000, "cannot be unpacked"),
    ],
)
def test_a_json_array_that_is_no_table_is_named(tmp_path: Path, folder: Path, array: str, said: str) -> None:
    (folder / "a.json").write_text(array)
    with pytest.raises(UserError, match=r"a\.json cannot be unpacked") as told:
        made(tmp_path)
    assert said in str(told.value)


def test_a_tar_among_text_is_told_from_text_that_speaks_of_it() -> None:
    assert packing_of(b"x" * 257 + b"ustar" + b"x" * 300) is None
    (leaf,) = leaves(Stream(io.BytesIO(tarred({"a": b"text"})).read), "a.tar")
    assert leaf.stream.read(9) == b"text" and leaf.inside == "a"
