"""Every format gives back its bytes in order, whatever the cuts; what cannot be read is named with its place."""

import io
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.prepare import inputs, jsonl, manual, tables, texts
from pipeline.prepare.inputs import Block, InputPart, Reading
from pipeline.prepare.prepare import prepare
from pipeline.prepare.readers import blocks
from pipeline.storage.listing import find

AWKWARD = [
    "",
    "\n",
    " \n",
    "\r\n",
    "a\u2028b\u0085c",
    "ünï",
    "日本語",
    "🙂🙃",
    'tab\tquote"comma,',
    "\\n",
    "\x00",
    "x" * 300,
]
awkward = st.lists(st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(codec="utf-8"), max_size=40)), max_size=25)


def joined(parts: Iterable[Block]) -> tuple[bytes, list[int]]:
    """The bytes of the blocks, and where documents begin in them."""
    data, starts = b"", []
    for part, at in parts:
        starts += (at + len(data)).tolist()
        data += part.tobytes()
    return data, starts


def cut(part: InputPart, at: list[int]) -> list[InputPart]:
    """The part, cut into ranges at these places."""
    edges = sorted({0, part.stop, *(place % (part.stop + 1) for place in at)})
    return [InputPart(part.path, "x", part.format, a, b, b - a) for a, b in pairwise(edges)] or [part]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs") / "input"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few bytes, so that small inputs have many edges."""
    for module in (inputs, texts, tables, jsonl):
        monkeypatch.setattr(module, "BLOCK", 101)


def whole(place: Path, content: bytes, kind: inputs.Format) -> InputPart:
    place.write_bytes(content)
    return InputPart(place, "x", kind, 0, len(content), len(content))


@given(content=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=5))
@pytest.mark.parametrize("kind", ["bytes", "text", "wikitext"])
def test_bytes_and_kept_text_are_exact_at_any_cut(place: Path, kind, content: bytes, cuts: list[int]) -> None:
    parts = cut(whole(place, content, kind), cuts)
    data, starts = joined(block for part in parts for block in blocks(part, Reading(invalid="keep")))
    assert data == content
    assert starts == [0]


@given(content=st.text(st.characters(codec="utf-8"), max_size=300), cuts=st.lists(st.integers(0, 999), max_size=5))
def test_valid_text_is_exact_at_any_cut(place: Path, content: str, cuts: list[int]) -> None:
    parts = cut(whole(place, content.encode(), "text"), cuts)
    data, starts = joined(block for part in parts for block in blocks(part, Reading()))
    assert data == content.encode() and starts == [0]


@given(
    content=st.lists(
        st.sampled_from([b"\xf0", b"\x9f", b"\x92", b"\xa9", b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x28", b"a\n"])
    )
    .map(b"".join)
    .filter(bool),
    cuts=st.lists(st.integers(0, 99), max_size=5),
)
def test_replaced_text_does_not_depend_on_cuts(place: Path, content: bytes, cuts: list[int]) -> None:
    parts = cut(whole(place, content, "text"), cuts)
    data, _ = joined(block for part in parts for block in blocks(part, Reading(invalid="replace")))
    assert data.decode() == content.decode("utf-8", "replace")


@given(
    before=st.text(st.characters(codec="utf-8"), max_size=200),
    after=st.binary(max_size=99),
    cuts=st.lists(st.integers(0, 400)),
)
def test_invalid_text_is_named_with_its_file_and_offset(
    place: Path, before: str, after: bytes, cuts: list[int]
) -> None:
    parts = cut(whole(place, before.encode() + b"\xff" + after, "text"), cuts)
    with pytest.raises(UserError, match=f"{place} at byte {len(before.encode())} is not valid UTF-8"):
        joined(block for part in parts for block in blocks(part, Reading()))


@given(
    titles=st.lists(st.text("abc=é ", min_size=1, max_size=9), max_size=9),
    cuts=st.lists(st.integers(0, 999), max_size=5),
)
def test_articles_begin_at_the_same_places_at_any_cut(place: Path, titles: list[str], cuts: list[int]) -> None:
    told = ["".join(f" \n = {title} = \n \n Text , = not = \n \n = = Section = = \n \n" for title in titles).encode()]
    part = whole(place, told[0] + b" end \n", "wikitext")
    data, starts = joined(block for part in cut(part, cuts) for block in blocks(part, Reading()))
    assert data == told[0] + b" end \n"
    assert starts == list(texts.article_starts(part))
    assert len(starts) >= sum(not title.startswith("=") for title in titles)
    assert starts[0] == 0


@given(rows=awkward, separator=st.sampled_from(["", "\n\n", "\x00"]), size=st.integers(1, 9))
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "arrow"])
def test_tables_give_their_rows_in_order(place: Path, kind, rows: list[str], separator: str, size: int) -> None:
    write(place, kind, rows, size)
    found = find(str(place))[0]
    parts = tables.parts_of(found, kind, "text")
    data, starts = joined(block for part in parts for block in blocks(part, Reading(separator=separator)))
    assert data == "".join(row + separator for row in rows).encode()
    lengths = [len((row + separator).encode()) for row in rows]
    assert starts == np.cumsum([0, *lengths])[:-1].tolist()


def write(place: Path, kind: str, rows: list[str], size: int = 5) -> None:
    """A table of these rows, with a column before the text."""
    table = pa.table({"id": pa.array(range(len(rows)), pa.int64()), "text": pa.array(rows, pa.string())})
    if kind == "parquet":
        pq.write_table(table, place, row_group_size=size)
    elif kind == "csv":
        pyarrow.csv.write_csv(table, place)
    elif kind == "jsonl":
        lines = [json.dumps({"id": i, "text": row}, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)]
        place.write_text("".join(lines), newline="")
    else:
        with pa.ipc.new_stream(str(place), table.schema) as stream:
            stream.write_table(table, max_chunksize=size)


@given(
    rows=st.lists(st.sampled_from(AWKWARD), min_size=1, max_size=20), cuts=st.lists(st.integers(0, 9999), max_size=6)
)
def test_jsonl_is_exact_at_any_cut(place: Path, rows: list[str], cuts: list[int]) -> None:
    write(place, "jsonl", rows)
    part = whole(place, place.read_bytes(), "jsonl")
    data, starts = joined(block for part in cut(part, cuts) for block in blocks(part, Reading()))
    assert data == "".join(rows).encode() and len(starts) == len(rows)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "arrow"])
def test_a_missing_column_is_named_with_those_there_are(place: Path, kind) -> None:
    write(place, kind, ["a", "b"])
    with pytest.raises(UserError, match="story"):
        found = find(str(place))[0]
        for part in tables.parts_of(found, kind, "story"):
            joined(blocks(part, Reading(column="story")))


@pytest.mark.parametrize("rows", [["x" * 5000, "\0", ""], ["x" * 5000, "0", "0000\U00010000", "\r\n"]])
def test_csv_is_exact_where_arrows_parser_is_not(place: Path, rows: list[str]) -> None:
    write(place, "csv", rows)
    part = tables.parts_of(find(str(place))[0], "csv", "text")[0]
    assert joined(blocks(part, Reading()))[0] == "".join(rows).encode()


@pytest.mark.parametrize(
    ("content", "rule"), [("id,text\n1\n", "line 2: a row must have 2"), ('id,text\n1,"a', "line 2 cannot")]
)
def test_a_csv_that_is_none_is_refused_with_its_line(place: Path, content: str, rule: str) -> None:
    place.write_text(content)
    part = tables.parts_of(find(str(place))[0], "csv", "text")[0]
    with pytest.raises(UserError, match=rule):
        joined(blocks(part, Reading()))


def test_a_column_without_text_is_refused(place: Path) -> None:
    write(place, "parquet", ["a"])
    with pytest.raises(UserError, match="must hold text, found int64"):
        joined(blocks(tables.parts_of(find(str(place))[0], "parquet", "id")[0], Reading(column="id")))


@pytest.mark.parametrize(
    ("kind", "said"), [("jsonl", "at byte 11 is not valid"), ("csv", "row 2, byte 1 is not valid")]
)
def test_invalid_utf8_in_tables_is_named_replaced_or_kept(place: Path, kind, said: str) -> None:
    content = {"jsonl": b'{"text": "a\xff"}\n', "csv": b'text\nfine\n"a\xff"\n'}[kind]
    part = whole(place, content, kind)
    with pytest.raises(UserError, match=said):
        joined(blocks(part, Reading()))
    assert joined(blocks(part, Reading(invalid="replace")))[0].endswith("a\ufffd".encode())
    assert joined(blocks(part, Reading(invalid="keep")))[0].endswith(b"a\xff")


def test_a_file_that_is_no_table_is_named(place: Path) -> None:
    place.write_bytes(b"not a table")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        tables.parts_of(find(str(place))[0], "parquet", "text")
    with pytest.raises(UserError, match="mend the file"):
        joined(blocks(whole(place, b'{"text": "a"\n', "jsonl"), Reading()))


def test_the_manual_is_exact_at_any_cut() -> None:
    text, topics = manual.manual()
    parts = [InputPart(Path(), "", "manual", a, b, b - a) for a, b in [(0, 1000), (1000, 77777), (77777, len(text))]]
    data, starts = joined(block for part in parts for block in blocks(part, Reading()))
    assert data == text and starts == topics.tolist()


def table_of(place: Path, column: pa.Array, name: str = "a.parquet") -> Path:
    place.mkdir()
    pq.write_table(pa.table({"id": pa.nulls(len(column)), "text": column}), place / name)
    return place


def prepared(folder: Path, tmp_path: Path, **options) -> bytes:
    config = CorpusConfig(path=str(folder), prepared=str(tmp_path / "data"), holdout=0.0, **options)
    corpus = prepare(config, local=True)
    return corpus.train.read(0, len(corpus.train)).tobytes()


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "é", "a"]).dictionary_encode(),
        pa.array([b"a", None, "é".encode(), b"a"]).dictionary_encode(),
        pa.array(["a", None, "é", "a"], pa.string_view()),
        pa.array(["a", None, "é", "a"], pa.large_string()),
        pa.array(["a", None, "é", "a"], pa.binary_view()),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_of_text_is_read_however_it_is_kept(tmp_path: Path, column: pa.Array) -> None:
    assert prepared(table_of(tmp_path / "in", column), tmp_path, separator="\\n") == "a\n\né\na\n".encode()


def test_a_column_of_nulls_is_empty_beside_others_and_refused_alone(tmp_path: Path) -> None:
    folder = table_of(tmp_path / "in", pa.nulls(3))
    with pytest.raises(UserError, match="found no text in files at in"):
        prepared(folder, tmp_path)
    pq.write_table(pa.table({"text": ["text"]}), folder / "b.parquet")
    assert prepared(folder, tmp_path) == b"text"


@pytest.mark.parametrize(
    ("name", "good"), [("csv", "text\ngood\n"), ("jsonl", '{"text": "good"}\n'), ("parquet", None)]
)
def test_a_table_of_0_bytes_is_left_out_beside_good_ones(tmp_path: Path, name: str, good: str | None) -> None:
    folder = table_of(tmp_path / "in", pa.array(["good"]), "b.parquet" if good is None else ".hidden")
    if good is not None:
        (folder / f"b.{name}").write_text(good)
    (folder / f"a.{name}").touch()
    assert prepared(folder, tmp_path) == b"good"


def test_a_few_repeated_texts_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A dictionary says with a few bits what is long."""
    folder = table_of(tmp_path / "in", pa.array(["x" * 1000] * 40_000))
    (part,) = tables.parts_of(find(str(folder))[0], "parquet", "text")
    sizes = [len(data) for data, _ in blocks(part, Reading())]
    assert sum(sizes) == 40_000_000 and max(sizes) <= tables.MOST_ROWS * 1000


@pytest.mark.parametrize("column", ["a.b", "a", "text"])
def test_row_groups_are_sized_by_their_column_whatever_its_name(tmp_path: Path, column: str) -> None:
    texts = [f"{number}" * 900 for number in range(4)]
    rows = pa.table({column: texts, "other.b": ["x" * 9_000] * 4})
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=1, compression="none", use_dictionary=False)
    parts = tables.parts_of(find(str(tmp_path))[0], "parquet", column)
    assert len(parts) == 4 and all(900 <= part.size < 9_000 for part in parts)
    found = [joined(blocks(part, Reading(column=column)))[0].decode() for part in parts]
    assert found == texts


def test_a_flipped_bit_in_a_parquet_file_is_one_line_or_harmless(place: Path) -> None:
    """Every byte of a small file once: it is read as it was, or refused by name."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["some text", "and more of it"] * 20}), sink, write_page_checksum=True)
    whole, refused = sink.getvalue(), 0
    for at in range(0, len(whole), 7):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            for part in tables.parts_of(find(str(place))[0], "parquet", "text"):
                joined(blocks(part, Reading()))
        except UserError as error:
            refused += 1
            assert str(place) in str(error) and "\n" not in str(error)
    assert refused > 20


@pytest.mark.parametrize("line", ["null", "5", "[]", '"text"', "nul", "[" * 100_000])
@pytest.mark.parametrize("before", ["", '{"text": "a"}\n'])
def test_a_line_that_is_no_object_is_named(place: Path, line: str, before: str) -> None:
    part = whole(place, f"{before}{line}\n".encode(), "jsonl")
    with pytest.raises(UserError, match=f"the line from byte {len(before)}.*mend the file"):
        joined(blocks(part, Reading()))


@pytest.mark.parametrize(("half", "kept"), [("\\ud800", b"\xed\xa0\x80"), ("\\udfff", b"\xed\xbf\xbf")])
def test_half_a_surrogate_pair_in_a_row_stops_nothing_where_it_is_replaced(place: Path, half: str, kept: bytes) -> None:
    rows = ['{"text": "one "}', f'{{"text": "two{half} "}}', '{"text": "three \\ud83d\\ude42"}']
    part = whole(place, "\n".join(rows).encode(), "jsonl")
    with pytest.raises(UserError, match=r"the line from byte 17: the text holds \\ud"):
        joined(blocks(part, Reading()))
    assert joined(blocks(part, Reading(invalid="replace")))[0].decode() == "one two\ufffd three 🙂"
    assert joined(blocks(part, Reading(invalid="keep")))[0] == b"one two" + kept + " three 🙂".encode()


def test_json_lines_name_the_row_that_holds_no_text_and_the_line_that_is_too_long(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="the line from byte 14: column 'text' must hold text, found int"):
        joined(blocks(whole(place, b'{"text": "a"}\n{"text": 5}\n', "jsonl"), Reading()))
    monkeypatch.setattr(jsonl, "LONGEST", 1 << 17)
    with pytest.raises(UserError, match="a line must have at most 131072 bytes"):
        joined(blocks(whole(place, b'{"text": "' + b"a" * (1 << 19) + b'"}', "jsonl"), Reading()))


def test_rows_without_the_column_are_empty_where_others_have_it(place: Path) -> None:
    lines = ['{"id": 1}'] * 60 + ['{"text": "a"}'] + ['{"id": 1}'] * 60
    data, starts = joined(blocks(whole(place, "\n".join(lines).encode(), "jsonl"), Reading(separator=";")))
    assert data == b";" * 60 + b"a;" + b";" * 60 and len(starts) == 121
