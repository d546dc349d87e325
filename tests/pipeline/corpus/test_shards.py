"""A shard that is truncated, altered, missing or of another version is named, with what was expected and found."""

import os
import re
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.corpus import shards
from pipeline.corpus.corpus import Corpus, open_corpus
from pipeline.corpus.shards import ShardWriter
from pipeline.corpus.split import Split
from pipeline.prepare.prepare import prepare


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A prepared corpus of several shards."""
    text = tmp_path / "text"
    text.mkdir()
    for split in ("train", "valid", "test"):
        (text / f"{split}.txt").write_text(f"Some text of {split}. " * 400)
    return prepare(config(tmp_path), local=True)


def config(tmp_path: Path) -> CorpusConfig:
    return CorpusConfig(path=str(tmp_path / "text"), prepared=str(tmp_path / "data"), shard_bytes=3000)


def shard_of(corpus: Corpus, number: int = 1) -> Path:
    path = corpus.folder / corpus.train.shards[number].name
    assert isinstance(path, Path)
    return path


def read_all(corpus: Corpus) -> bytes:
    return corpus.train.read(0, len(corpus.train)).tobytes()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def make_older(path: Path) -> None:
    """The same shard as another version of the format would write it."""
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    schema = table.schema.with_metadata({**(table.schema.metadata or {}), b"version": b"0"})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, r"is missing \(\d+ bytes expected\)"),
        (truncate, r"must have \d+ bytes, found \d+"),
        (alter, "must have sha256 [0-9a-f]{64}, found [0-9a-f]{64}: its content was altered"),
        (make_older, "must be of format version 1, found 0"),
        (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "cannot be read as Arrow IPC"),
    ],
)
def test_a_damaged_shard_is_named_and_the_command_rebuilds_it(
    corpus: Corpus, tmp_path: Path, damage, said: str
) -> None:
    before = read_all(corpus)
    path = shard_of(corpus)
    others = {other: other.stat().st_mtime_ns for other in path.parent.glob("*.arrow") if other != path}
    damage(path)
    with pytest.raises(UserError, match=f"shard {re.escape(str(path))} {said}.*; rebuild it: (.*)") as raised:
        read_all(open_corpus(corpus.folder))
    command = str(raised.value).partition("rebuild it: ")[2]
    assert command.startswith(f"python jobs/prepare.py --corpus.path {tmp_path}") and command.endswith("verify always")
    rebuilt = prepare(CorpusConfig.from_dict(config(tmp_path).to_dict() | {"verify": "always"}), local=True)
    assert rebuilt.sha256 == corpus.sha256 and read_all(rebuilt) == before
    assert {other: other.stat().st_mtime_ns for other in others} == others, "only the damaged shard is written again"


def test_what_was_verified_once_is_trusted_while_size_and_time_stay_unless_always(corpus: Corpus) -> None:
    path = shard_of(corpus)
    stat = path.stat()
    alter(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    read_all(open_corpus(corpus.folder))
    with pytest.raises(UserError, match="was altered"):
        read_all(open_corpus(corpus.folder, CorpusConfig(verify="always")))


def test_a_manifest_that_is_missing_damaged_or_of_another_version_is_named(corpus: Corpus) -> None:
    manifest = corpus.folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"version": 1', '"version": 99'))
    with pytest.raises(UserError, match="must be of version 1, found 99"):
        open_corpus(corpus.folder)
    manifest.write_text(text[:100])
    with pytest.raises(UserError, match="is damaged"):
        open_corpus(corpus.folder)
    manifest.unlink()
    with pytest.raises(UserError, match=r"no prepared corpus is at .*: run python jobs/prepare.py"):
        open_corpus(corpus.folder)


@pytest.mark.parametrize("goes_through", ["stream", "symbols"])
def test_one_thread_may_read_what_another_goes_through(corpus: Corpus, goes_through: str) -> None:
    """The other lets go of the shard at the worst moment: when it was found to be mapped."""
    split = corpus.train
    assert isinstance(split, Split)
    other = getattr(split, goes_through)()
    next(other)
    threads: list[threading.Thread] = []

    class Watched(OrderedDict):
        def __contains__(self, number: object) -> bool:
            found = super().__contains__(number)
            if not threads:
                threads.append(threading.Thread(target=next, args=(other,)))
                threads[0].start()
                threads[0].join(0.2)
            return found

    split._maps, split._remote = Watched(split._maps), True
    assert split.read(0, 4).tobytes() == b"Some"
    threads[0].join()
    assert 1 in split._maps, "the other went on"


def test_a_shard_is_plain_arrow_and_maps_without_a_copy(corpus: Corpus) -> None:
    path = shard_of(corpus, 0)
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.schema.field("document").type.value_type == pa.uint8()
    view = corpus.train.read(5, 1000)
    assert not view.flags.owndata and not view.flags.writeable
    assert b"".join(bytes(row.as_py()) for row in table["document"])[5:1000] == view.tobytes()


@given(
    blocks=st.lists(st.tuples(st.binary(max_size=30), st.lists(st.integers(0, 30), max_size=4)), max_size=8),
    size=st.integers(1, 40),
)
def test_the_shards_of_any_blocks_hold_their_bytes_and_documents(tmp_path_factory, blocks, size: int) -> None:
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter("train", size)
    packed, content, starts = [], b"", []
    for data, at in blocks:
        at = sorted(min(start, len(data)) for start in at)
        packed += writer.add(np.frombuffer(data, np.uint8), np.array(at, np.int64))
        starts += [len(content) + start for start in at]
        content += data
    packed += writer.finish()
    read, found = b"", []
    for number, shard in enumerate(packed):
        mapped = shards.map_shard(folder / str(number), shard.write(folder, str(number)), "")
        found += [len(read) + start for start in mapped.starts.tolist()]
        read += mapped.data.tobytes()
        assert len(mapped.data) <= size
    assert read == content and found == starts
    counted = np.sum([shard.histogram for shard in packed], axis=0)
    assert not content or counted.tolist() == np.bincount(list(content), minlength=256).tolist()
