"""A prepared corpus: its manifest, and its splits as mapped, verified streams of bytes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from annotated_types import Ge, Len
from typing_extensions import TypedDict

from h2q.alphabet import Kind
from h2q.errors import require
from pipeline.config import CorpusConfig
from pipeline.corpus import shards
from pipeline.corpus.cache import Cache
from pipeline.corpus.mixed import AnySplit, MixedPart, MixedSplit
from pipeline.corpus.shards import Shard
from pipeline.corpus.split import Split, Verify
from pipeline.storage import uri as storage
from pipeline.storage.json_file import Count, PlainName, fitting, read_json
from pipeline.storage.path import AnyPath

MANIFEST = "manifest.json"
VERSION = 1
MIX = "h2q-mix"
"""The format of a manifest that names corpora of several kinds."""
SPLITS = ("train", "validation", "test")

_LARGEST = 1 << 28
"""Bytes of a manifest: that of a million shards has 173 MB."""


class ShardEntry(TypedDict):
    """What a manifest or a receipt says of a shard."""

    name: PlainName
    bytes: Count
    documents: Count
    file_bytes: Count
    sha256: str


class _SplitEntry(TypedDict):
    bytes: Count
    documents: Count
    sha256: str
    order0_bpb: float | None
    gzip_bpb: float | None
    xz_bpb: float | None
    sample_bytes: Count
    inputs: list[Annotated[list[str | Count], Len(2, 2)]]
    """[input, its bytes in the split]."""
    histogram: Annotated[list[Count], Len(256, 256)]
    shards: list[ShardEntry]


class _Splits(TypedDict):
    train: _SplitEntry
    validation: _SplitEntry
    test: _SplitEntry


class _Manifest(TypedDict):
    """What is read of a manifest; it holds more (`pipeline.prepare.manifest`)."""

    name: str
    sha256: str
    command: str
    notes: list[str]
    marks: NotRequired[Kind]
    """The kind whose marker its documents begin with, where they are marked."""
    splits: _Splits


class PartEntry(TypedDict):
    """What the manifest of a mix says of a part, whose folder lies beside its own."""

    kind: Kind
    lanes: Annotated[Count, Ge(1)]
    folder: PlainName
    sha256: str


class _Mix(TypedDict):
    """What is read of the manifest of a mix."""

    name: str
    sha256: str
    command: str
    notes: list[str]
    parts: Annotated[list[PartEntry], Len(1)]


class CorpusPart(NamedTuple):
    """A corpus in a mix, and how many lanes read it."""

    kind: Kind
    lanes: int
    corpus: "Corpus"


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus in a folder, or a mix of some (`parts`). `manifest` is the parsed manifest.json; `notes` are
    sentences for people."""

    folder: AnyPath
    manifest: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()
    verify: Verify = "first"
    cache: Cache = field(default_factory=Cache, repr=False)
    parts: tuple[CorpusPart, ...] = ()

    @property
    def name(self) -> str:
        """The corpus, for people."""
        return self.manifest["name"]

    @property
    def sha256(self) -> str:
        """Digest of the splits' names, sizes and content, whatever the shards, the source or the machine."""
        return self.manifest["sha256"]

    @cached_property
    def splits(self) -> dict[str, AnySplit]:
        """The splits by name: `train`, `validation`, `test`."""
        if self.parts:
            return {name: MixedSplit(tuple(self._parts_of(name))) for name in SPLITS}
        command, marks = self.manifest["command"], self.manifest.get("marks")
        return {
            name: Split(self.folder, name, entry, command, self.verify, self.cache, marks)
            for name, entry in self.manifest["splits"].items()
        }

    def _parts_of(self, name: str) -> Iterator[MixedPart]:
        for kind, lanes, corpus in self.parts:
            split = corpus.splits[name]
            assert isinstance(split, Split)
            yield MixedPart(kind, lanes, split)

    @property
    def train(self) -> AnySplit:
        return self.splits["train"]

    @property
    def validation(self) -> AnySplit:
        return self.splits["validation"]

    @property
    def test(self) -> AnySplit:
        return self.splits["test"]

    def __reduce__(self) -> Any:
        return Corpus, (self.folder, self.manifest, self.notes, self.verify, self.cache, self.parts)


def open_corpus(folder: AnyPath, config: CorpusConfig | None = None) -> Corpus:
    """The prepared corpus, or mix, in the folder, read as the config says (`verify`, `cache`, `cache_bytes`).

    All shards' sizes are checked now, their sha256 when they are first read. Raises: UserError when there is no
    manifest, one of another version, or a shard is missing or of another size.
    """
    config = config or CorpusConfig()
    manifest = read_manifest(folder)
    require(manifest is not None, f"no prepared corpus is at {folder}: run python jobs/prepare.py")
    assert manifest is not None
    cache = Cache(Path(config.cache), config.cache_bytes)
    opened = (folder, manifest, tuple(manifest["notes"]), config.verify, cache)
    if manifest["format"] == MIX:
        return Corpus(*opened, tuple(_open_part(folder, entry, config) for entry in manifest["parts"]))
    sizes = storage.sizes_in(folder)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if sizes.get(shard["name"]) != shard["file_bytes"]:
                shards.check_size(folder / shard["name"], sizes.get(shard["name"]), Shard(**shard), manifest["command"])
    return Corpus(*opened)


def _open_part(folder: AnyPath, entry: dict[str, Any], config: CorpusConfig) -> CorpusPart:
    """Raises: UserError as `open_corpus`, and for another corpus than was mixed."""
    corpus = open_corpus(folder.parent / entry["folder"], config)
    require(
        corpus.sha256 == entry["sha256"] and corpus.manifest.get("marks") == entry["kind"],
        f"the {entry['kind']} part of {folder / MANIFEST} must have sha256 {entry['sha256'][:16]}, found "
        f"{corpus.sha256[:16]} ({corpus.manifest.get('marks', 'no markers')}) in {corpus.folder}: run python "
        "jobs/prepare.py again",
    )
    return CorpusPart(entry["kind"], entry["lanes"], corpus)


def read_manifest(folder: AnyPath) -> dict[str, Any] | None:
    """The parsed manifest, or None where none is. Raises: UserError for one that is damaged or of another version."""
    path, remedy = folder / MANIFEST, "delete it and run python jobs/prepare.py again"
    try:
        manifest = read_json(path, dict, remedy, limit=_LARGEST)
    except FileNotFoundError:
        return None
    version = manifest.get("version")
    require(
        version == VERSION,
        f"{path} must be of version {VERSION}, found {version}: delete the folder and run python jobs/prepare.py again",
    )
    if manifest.setdefault("format", "") == MIX:
        return fitting(manifest, _Mix, str(path), remedy)
    manifest = fitting(manifest, _Manifest, str(path), remedy)
    for name, split in manifest["splits"].items():
        for count in ("bytes", "documents"):
            total = sum(shard[count] for shard in split["shards"])
            require(
                split[count] == total,
                f"{path} is damaged: splits.{name}.{count} should be the sum over its shards, {total}, found "
                f"{split[count]}; {remedy}",
            )
    return manifest
