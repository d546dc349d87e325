"""Where bytes come from: each source as a list of parts for every split, in the order in which they are to be read."""

import hashlib
import os
import platform
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from h2q.errors import require
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import SPLITS
from pipeline.prepare import hub, media, tables
from pipeline.prepare.inputs import Format, InputPart
from pipeline.prepare.manual import manual, topics
from pipeline.prepare.packing import SUFFIXES
from pipeline.prepare.plain import MakePlain, PlainFile, not_plain
from pipeline.prepare.splits import Contents, cut, deal_rows, documents_of, few, merged
from pipeline.senses.embedded import LICENCES, embedded, made_with
from pipeline.senses.media import Media
from pipeline.shown import printable, without_secrets
from pipeline.storage.listing import ListedFile, check_any, find
from pipeline.storage.path import locate
from pipeline.storage.uri import absolute, is_uri, local_path, make_folder

_SPLIT_WORDS = {"train": "train", "training": "train", "valid": "validation", "validation": "validation"} | {
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_WIKITEXT = re.compile(r"wiki\.(train|valid|test)\.(raw|tokens)")
_TABLES: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_WIKITEXT_LICENCE = "CC BY-SA 3.0 and GFDL"


@dataclass(frozen=True)
class Source:
    """A corpus that has been named but not read.

    `identity` is what, with the options, decides the prepared bytes; `everywhere`: every node of a cluster can read it.
    """

    name: str
    slug: str
    licence: str | None
    order: str
    identity: dict[str, Any]
    everywhere: bool
    contents: Callable[[MakePlain], Contents]


def check_places(config: CorpusConfig) -> None:
    """Look whether there are files at `corpus.path`, if it is to be read, and a folder at `corpus.prepared`, or a place
    for one: before Ray starts, say. Raises: UserError."""
    for part in config.parts:
        with part.named():
            _check_place(config.of_part(part))
    if not config.mix:
        _check_place(config)
    make_folder(locate(config.prepared))


def _check_place(config: CorpusConfig) -> None:
    if config.path is not None and config.source in ("auto", "path"):
        check_any(config.path)
    if config.kind in ("image", "audio"):
        media.check_readable(config.kind)


def files(config: CorpusConfig) -> Source:
    """Files at `corpus.path`: WikiText's own files, tables, or any text or bytes. Raises: UserError."""
    assert config.path is not None
    again: list[str] = []
    chosen, notes = _chosen(find(config.path, again), config)
    if again:
        notes = (*notes, f"listed once, though links lead there again: {few(sorted(again))}")
    require(
        sum(file.size for file in chosen) > 0,
        f"the corpus must not be empty, found 0 bytes at {config.path}: give --corpus.path other files",
    )
    wikitext = all(_WIKITEXT.fullmatch(_base(file)) for file in chosen)
    base = printable(locate(config.path).name)
    return Source(
        name=f"{'WikiText' if wikitext else 'files'} at {base}",
        slug=_slug(base),
        licence=_WIKITEXT_LICENCE if wikitext else None,
        order="files by the bytes of their path, rows in the order of the file",
        # With the path: archives unpack files of equal names, sizes and times of change into several folders.
        identity={
            "path": printable(without_secrets(_real(config.path))),
            "files": [[file.label, file.size, file.mtime_ns] for file in chosen],
        },
        # What lies at a bare path, other nodes need not see; a URI, `file://` too, they do.
        everywhere=is_uri(config.path),
        contents=lambda make_plain: _file_contents(*_as_plain(chosen, config, notes, make_plain), config),
    )


def _real(path: str) -> str:
    """The path without links on a disk, so that one which is made to lead elsewhere is noticed."""
    local = local_path(path)
    return absolute(path) if local is None else os.path.realpath(absolute(local))


def reference_manual(config: CorpusConfig) -> Source:
    """The Python reference manual that CPython carries (`pydoc_data.topics`): the offline default."""
    version = platform.python_version()
    text, _ = manual()

    def contents(make_plain: MakePlain) -> Contents:
        documents = topics()
        return cut({}, documents, SPLITS, config, f"the manual's {len(documents)} topics", ())

    return Source(
        name=f"Python {version} reference manual (pydoc_data.topics)",
        slug="python-manual",
        licence="PSF-2.0",
        order="topics by name",
        identity={"manual": hashlib.sha256(text).hexdigest()},
        everywhere=True,
        contents=contents,
    )


def embedded_media(config: CorpusConfig) -> Source:
    """Pictures or sounds that need no file and no network: the default of their kinds."""
    assert config.kind in ("image", "audio")
    kind: Media = config.kind

    def contents(make_plain: MakePlain) -> Contents:
        documents, notes = embedded(kind, config.samples)
        parts = media.embedded_parts(kind, documents)
        return cut({}, parts, SPLITS, config, f"the {len(parts)} embedded documents", notes)

    return Source(
        name=f"embedded {'pictures' if kind == 'image' else 'sounds'}",
        slug=f"embedded-{kind}",
        licence="; ".join(LICENCES[kind]),
        order="as they are made, sources mixed evenly",
        identity={"embedded": made_with(kind)},
        everywhere=True,
        contents=contents,
    )


def hub_data_set(config: CorpusConfig, text: str) -> Source:
    """A data set of the Hugging Face hub, NAME[:CONFIG][@REVISION]. Only its contents ask the hub."""
    named = hub.HubName.parse(text)
    wikitext = named.name.rpartition("/")[2] == "wikitext" and "raw" in (named.config or "")
    revision = f"@{named.revision[:12]}" if named.revision else ""
    name = f"{named.name}{f' {named.config}' if named.config else ''} of the Hugging Face hub"
    if text == hub.WIKITEXT:
        name = f"WikiText-2 raw ({named.name}{revision})"
    return Source(
        name=name,
        slug=_slug(named.config or named.name),
        licence=_WIKITEXT_LICENCE if wikitext else None,
        order="rows of each split in the order of the hub",
        identity={"hub": vars(named)},
        everywhere=False,
        contents=lambda make_plain: _hub_contents(named, config, wikitext),
    )


def expected_sizes(source: Source, config: CorpusConfig) -> dict[str, int] | None:
    """About how many bytes each split will have, from the sizes of files; None where that does not tell: for what is
    packed, on the hub, or pictures and sounds."""
    if "hub" in source.identity or config.whole:
        return None
    try:
        contents = source.contents(_unpack_nothing)
    except _Packed:
        return None
    sizes = {split: sum(part.size for part in parts) for split, parts in contents.splits.items()}
    rows, held = sum(part.size for part in contents.rows), [split for split in contents.rows_to if split != "train"]
    return sizes | {split: round(rows * config.holdout) for split in held}


class _Packed(Exception):
    """Files have to be unpacked before one knows how much text they hold."""


def _unpack_nothing(files: list[ListedFile]) -> list[list[PlainFile]]:
    raise _Packed


def _hub_contents(named: hub.HubName, config: CorpusConfig, wikitext: bool) -> Contents:
    files = hub.fetch(named)
    column = "text" if wikitext else config.named_column
    given: dict[str, list[InputPart]] = {}
    for split, paths in files.items():
        to = _SPLIT_WORDS.get(split)
        if to is None:
            continue
        for number, path in enumerate(paths):
            parts = tables.parts_of(ListedFile(Path(path), f"{split}/{number}", 0, 0), "arrow", column)
            if wikitext or config.whole:
                parts = [replace(part, format=f"{'wikitext' if wikitext else config.kind}-arrow") for part in parts]
            given.setdefault(to, []).extend(parts)
    require(len(given) > 0, f"{named.name} must have a train, validation or test split, found {', '.join(files)}")
    left = [split for split in files if split not in _SPLIT_WORDS]
    notes = (f"left out: the splits {', '.join(left)}",) if left else ()
    if not wikitext:
        return deal_rows(given, named.name, config, notes)
    return Contents(splits={split: merged(parts) for split, parts in given.items()}, notes=notes)


def _chosen(files: list[ListedFile], config: CorpusConfig) -> tuple[list[ListedFile], tuple[str, ...]]:
    """The files that are the corpus, and a note on those that are not."""
    if config.kind != "text":
        return files, ()
    wikitext = [file for file in files if _WIKITEXT.fullmatch(_base(file))]
    tables = [file for file in files if _table(file)]
    filled = [file for file in tables if file.size]
    chosen = wikitext or filled or tables or files
    kept = {file.path for file in chosen}
    left = [file for file in files if file.path not in kept]
    empty = [] if wikitext else [file.label for file in left if _table(file)]
    others = [file.label for file in left if wikitext or not _table(file)]
    what = "WikiText's own files" if wikitext else "tables"
    notes = (f"left out beside {what}: {few(others)}",) if others else ()
    return chosen, (*notes, f"left out, of 0 bytes: {few(empty)}") if empty else notes


def _as_plain(
    files: list[ListedFile], config: CorpusConfig, notes: tuple[str, ...], make_plain: MakePlain
) -> tuple[list[ListedFile], tuple[str, ...]]:
    """The files that are the corpus, with those that hold text without being plain as what they hold, and notes."""
    packed = not_plain(files, config.invalid) if config.kind == "text" else []
    if not packed:
        return files, notes
    become = {file.path: plain for file, plain in zip(packed, make_plain(packed), strict=True)}
    plain = [[of.file for of in become[file.path]] if file.path in become else [file] for file in files]
    chosen, left = _chosen([file for some in plain for file in some], config)
    require(
        sum(file.size for file in chosen) > 0,
        f"the corpus must not be empty, found 0 bytes in {few([file.label for file in packed])}: give --corpus.path "
        "other files",
    )
    kinds: dict[tuple[str, ...], list[str]] = {}
    for file in packed:
        for plain in become[file.path][:1]:
            kinds.setdefault(plain.how, []).append(file.label)
    told = [f"read as what it holds ({', '.join(how)}): {few(labels)}" for how, labels in kinds.items()]
    return chosen, (*notes, *told, *left)


def _file_contents(files: list[ListedFile], notes: tuple[str, ...], config: CorpusConfig) -> Contents:
    """Splits that the files name are kept; what is missing is cut by document."""
    labels = {file.label: split_of(file.label) for file in files}
    named = all(labels.values()) and len(files) > 0
    if config.kind == "text" and _table(files[0]):
        return _table_contents(files, labels if named else {}, config, notes)
    parts = [(_whole(file, config), labels[file.label] if named else None) for file in files]
    if not named:
        return cut({}, documents_of([part for part, _ in parts]), SPLITS, config, _counted(files), notes)
    splits = {split: [part for part, of in parts if of == split] for split in SPLITS}
    splits = {split: listed for split, listed in splits.items() if listed}
    for split, listed in splits.items():
        require(
            sum(part.size for part in listed) > 0,
            f"a split must not be empty, found 0 bytes in {few([part.shown for part in listed])} ({split}): "
            "remove the file or fill it",
        )
    missing = [split for split in SPLITS if split not in splits]
    if not missing:
        return Contents(splits=dict(splits), notes=notes)
    donor = next(split for split in SPLITS if split in splits)
    given = splits.pop(donor)
    wanted = [split for split in SPLITS if split in missing or split == donor]
    return cut(dict(splits), documents_of(given), wanted, config, few([part.label for part in given]), notes)


def _table_contents(
    files: list[ListedFile], labels: dict[str, str | None], config: CorpusConfig, notes: tuple[str, ...]
) -> Contents:
    given: dict[str, list[InputPart]] = {}
    with ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(lambda file: tables.parts_of(file, _table(file) or "csv", config.column), files))
    for file, parts in zip(files, listed, strict=True):
        given.setdefault(labels.get(file.label) or "", []).extend(parts)
    return deal_rows(given, None if labels else _counted(files), config, notes)


def _whole(file: ListedFile, config: CorpusConfig) -> InputPart:
    wikitext = config.kind == "text" and _WIKITEXT.fullmatch(_base(file))
    kind: Format = "wikitext" if wikitext else config.kind
    return InputPart(file.path, file.label, kind, 0, file.size, file.size, file.origin)


def split_of(label: str) -> str | None:
    """The split that a path names (`wiki.valid.raw`, `train/00.txt`, `test-00000-of-00001.parquet`), if any."""
    for part in reversed(label.lower().split("/")):
        words = [_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part) if word in _SPLIT_WORDS]
        if words:
            return words[0]
    return None


def _table(file: ListedFile) -> Format | None:
    """The kind of table that it is, by its name on the disk: what was unpacked is named by what it holds."""
    name = PurePosixPath(file.path.name.lower())
    return _TABLES.get(PurePosixPath(name.stem).suffix if name.suffix in SUFFIXES else name.suffix)


def _base(file: ListedFile) -> str:
    return file.label.rpartition("/")[2]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "corpus"


def _counted(files: list[ListedFile]) -> str:
    return files[0].label if len(files) == 1 else f"the {len(files)} files"
