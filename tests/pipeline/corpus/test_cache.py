"""A corpus on an object store: it becomes shards there, read through a bounded cache. S3 is stood in for."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.corpus.cache import Cache, CachedShard
from pipeline.corpus.corpus import open_corpus
from pipeline.corpus.lanes import Lanes, windows
from pipeline.corpus.shards import Shard
from pipeline.prepare.prepare import prepare
from pipeline.storage.lock import is_locked
from pipeline.storage.path import UriPath, text_of


@pytest.fixture
def text(store: Any) -> dict[str, bytes]:
    """Text of three splits in a bucket."""
    texts = {
        split: f"é {split} – number\n".encode() * many for split, many in [("train", 900), ("valid", 99), ("test", 98)]
    }
    for split, content in texts.items():
        store.objects[f"bucket/text/{split}/00.txt"] = content
    return texts


def test_a_corpus_on_an_object_store_becomes_shards_on_it(store, text, tmp_path: Path, ray_cluster: None) -> None:
    config = CorpusConfig(
        path=store.uri("bucket/text"), prepared=store.uri("bucket/ray"), shard_bytes=5000, cache=str(tmp_path / "cache")
    )
    corpus = prepare(config)
    assert isinstance(corpus.folder, UriPath) and corpus.train.read(0, len(corpus.train)).tobytes() == text["train"]
    assert len(corpus.train.shards) > 3
    assert not any(b"secret" in content for content in store.objects.values())
    other = prepare(
        CorpusConfig(path=store.uri("bucket/text/**/*.txt"), prepared=str(tmp_path / "local"), shard_bytes=5000),
        local=True,
    )
    assert other.sha256 == corpus.sha256
    # What one process read lies in the node's cache: another reads nothing from the store but the manifest.
    store.read.clear()
    again = open_corpus(corpus.folder, config)
    assert b"".join(bytes([*x[0].tolist()]) for x, _ in windows(again.test, 64, 1))
    assert [name for name in store.read if name.endswith(".arrow")] == []


def test_a_mix_on_an_object_store_is_the_mix_on_a_disk(store, text, tmp_path: Path) -> None:
    mix = f"text={store.uri('bucket/text')}@2,bytes={store.uri('bucket/text')}@1"
    there, here = (
        prepare(CorpusConfig(mix=mix, prepared=place, shard_bytes=5000, cache=str(tmp_path / "cache")), local=True)
        for place in (store.uri("bucket/mix"), str(tmp_path / "data"))
    )
    assert there.sha256 == here.sha256 and len(there.train.shards) > 3
    far, near = (Lanes(corpus.train, lanes=3, seq_len=50) for corpus in (there, here))
    for step in (0, 7, 1500):
        assert np.array_equal(far.rows(step), near.rows(step))


def test_the_cache_never_grows_beyond_its_limit(store, text, tmp_path: Path) -> None:
    config = CorpusConfig(
        path=store.uri("bucket/text"),
        prepared=store.uri("bucket/small"),
        shard_bytes=4000,
        cache=str(tmp_path / "cache"),
        cache_bytes=12_000,
    )
    corpus = prepare(config, local=True)
    assert sum(shard.file_bytes for shard in corpus.train.shards) > 12_000
    lanes = Lanes(corpus.train, lanes=8, seq_len=50)
    whole = Lanes(
        prepare(CorpusConfig(path=config.path, prepared=str(tmp_path)), local=True).train, lanes=8, seq_len=50
    )
    for step in (0, 7, 1500, 4000):
        assert np.array_equal(lanes.rows(step), whole.rows(step))
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.arrow")) <= 12_000
    tight = open_corpus(corpus.folder, CorpusConfig(cache=str(tmp_path / "tiny"), cache_bytes=1000))
    with pytest.raises(UserError, match=r"raise --corpus\.cache-bytes"):
        tight.train.read(0, 10)


def test_a_shard_altered_in_the_cache_is_fetched_again_and_one_altered_in_the_store_is_refused(
    store, text, tmp_path: Path
) -> None:
    config = CorpusConfig(
        path=store.uri("bucket/text"), prepared=store.uri("bucket/alter"), cache=str(tmp_path / "cache")
    )
    corpus = prepare(config, local=True)
    for cached in (tmp_path / "cache").glob("*.arrow"):
        content = bytearray(cached.read_bytes())
        content[600] ^= 1
        cached.write_bytes(content)
    again = open_corpus(corpus.folder, config)
    assert again.train.read(0, len(again.train)).tobytes() == text["train"]
    name = next(name for name in store.objects if name.startswith("bucket/alter") and "/test-" in name)
    content = bytearray(store.objects[name])
    content[600] ^= 1
    store.objects[name] = bytes(content)
    fresh = open_corpus(corpus.folder, CorpusConfig(cache=str(tmp_path / "fresh")))
    with pytest.raises(UserError, match=r"shard .*test-.* must have .* sha256 .*; rebuild it: python jobs/prepare.py"):
        fresh.test.read(0, 1)


def shard_in(folder: Path, content: bytes) -> tuple[Path, Shard]:
    """A file to fetch, and what a manifest says of it."""
    source = folder / content.decode()
    source.write_bytes(content)
    shard = Shard(source.name, len(content), 1, len(content), hashlib.sha256(content).hexdigest())
    return source, shard


def fetch(cache: Cache, source: Path, shard: Shard) -> CachedShard:
    return cache.fetch(source, shard, "", False, lambda: False)


def test_a_file_that_goes_while_room_is_made_is_no_error(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10)
    cache.folder.mkdir()
    for suffix in ("arrow", "part"):  # listed, and gone when it is looked at
        (cache.folder / f"gone.{suffix}").symlink_to(tmp_path / "nowhere")
    assert fetch(cache, *shard_in(tmp_path, b"0123456789")).path.read_bytes() == b"0123456789"


def test_who_takes_hold_while_room_is_made_holds_a_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (shard_in(tmp_path, content) for content in (b"first", b"2nd longer"))
    cache = Cache(tmp_path / "cache", 10)
    fetch(cache, *first)
    held: list[CachedShard] = []
    other = threading.Thread(target=lambda: held.append(fetch(Cache(cache.folder, 100), *first)))

    def in_between(path: Path) -> bool:
        """Another worker comes when the file was found to be free, and before it is deleted."""
        free = not is_locked(path)
        if other.ident is None:
            other.start()
            other.join(0.3)
        return not free

    monkeypatch.setattr("pipeline.corpus.cache.is_locked", in_between)
    fetch(cache, *second)
    other.join()
    assert [shard.path.read_bytes() for shard in held] == [b"first"]


READ_ALL = """
import sys, numpy
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import open_corpus
from pipeline.storage.path import locate
split = open_corpus(locate(sys.argv[1]), CorpusConfig(cache=sys.argv[2])).train
for at in numpy.random.default_rng(int(sys.argv[3])).permutation(len(split) // 100).tolist():
    assert split.read(at * 100, at * 100 + 3).tobytes() in ("é train – number\\n" * 2).encode()
"""


def test_workers_of_a_node_share_the_cache(store, text, tmp_path: Path) -> None:
    config = CorpusConfig(
        path=store.uri("bucket/text"),
        prepared=store.uri("bucket/share"),
        shard_bytes=3000,
        cache=str(tmp_path / "cache"),
    )
    corpus = prepare(config, local=True)
    store.read.clear()
    fresh = str(tmp_path / "fresh")
    command = [sys.executable, "-c", READ_ALL, text_of(corpus.folder), fresh]
    workers = [subprocess.Popen([*command, str(seed)]) for seed in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    fetched = [name for name in store.read if "/train-" in name and name.endswith(".arrow")]
    assert sorted(set(fetched)) == sorted(fetched), "every shard was downloaded once"


def test_the_default_cache_holds_fifty_gigabytes() -> None:
    assert Cache().limit == 50_000_000_000
