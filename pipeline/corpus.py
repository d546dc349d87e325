"""Where bytes come from: each source as a list of pieces for every split, in the order in which they are to be read."""

import hashlib
import platform
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, Literal

from h2q.config import require
from pipeline import hub, storage, tables
from pipeline.config import CorpusConfig
from pipeline.pieces import BLOCK, Format, Piece
from pipeline.storage import Found
from pipeline.texts import article_starts, manual

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
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
class Contents:
    """The pieces of every split, in order. `rows` are tables whose rows are still to be dealt out to the splits
    `rows_to`, each by a hash of its text.

    `notes` say in sentences what was decided, for the people who read a summary.
    """

    splits: dict[str, list[Piece]] = field(default_factory=dict)
    rows: list[Piece] = field(default_factory=list)
    rows_to: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A corpus that has been named but not read. `identity` is what, with the options, decides the prepared bytes."""

    name: str
    slug: str
    licence: str | None
    order: str
    identity: dict[str, Any]
    contents: Callable[[], Contents]


def files(config: CorpusConfig) -> Source:
    """Files at `corpus.path`: WikiText's own files, tables, or any text or bytes. Raises: UserError."""
    assert config.path is not None
    found, ignored = _chosen(storage.find(config.path), config)
    require(
        sum(file.size for file in found) > 0,
        f"the corpus must not be empty, found 0 bytes at {config.path}: give --corpus.path other files",
    )
    wikitext = all(_WIKITEXT.fullmatch(_base(file)) for file in found)
    base = storage.base_name(storage.absolute(config.path))
    return Source(
        name=f"{'WikiText' if wikitext else 'files'} at {base}",
        slug=_slug(base),
        licence=_WIKITEXT_LICENCE if wikitext else None,
        order="files by the bytes of their path, rows in the order of the file",
        identity={"files": [[file.label, file.size, file.mtime_ns] for file in found]},
        contents=lambda: _file_contents(found, config, ignored),
    )


def reference_manual(config: CorpusConfig) -> Source:
    """The Python reference manual that CPython carries (`pydoc_data.topics`): the offline default."""
    version = platform.python_version()
    text, starts = manual()

    def contents() -> Contents:
        edges = [*starts.tolist(), len(text)]
        whole = Piece("pydoc_data.topics", "pydoc_data.topics", "manual", 0, len(text), len(text))
        documents = [_part(whole, start, stop) for start, stop in pairwise(edges)]
        return _cut({}, documents, SPLITS, config, f"the manual's {len(documents)} topics", ())

    return Source(
        name=f"Python {version} reference manual (pydoc_data.topics)",
        slug="python-manual",
        licence="PSF-2.0",
        order="topics by name",
        identity={"manual": hashlib.sha256(text).hexdigest()},
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
        contents=lambda: _hub_contents(named, config, wikitext),
    )


def _hub_contents(named: hub.HubName, config: CorpusConfig, wikitext: bool) -> Contents:
    listed = hub.fetch(named)["files"]
    column = "text" if wikitext else config.column
    given: dict[str, list[Piece]] = {}
    for split, paths in listed.items():
        to = _SPLIT_WORDS.get(split)
        if to is None:
            continue
        for number, path in enumerate(paths):
            parts = tables.pieces(Found(path, f"{split}/{number}", 0, 0), "arrow", column)
            parts = [replace(part, format="wikitext-arrow") for part in parts] if wikitext else parts
            given.setdefault(to, []).extend(parts)
    require(len(given) > 0, f"{named.name} must have a train, validation or test split, found {', '.join(listed)}")
    left = [split for split in listed if split not in _SPLIT_WORDS]
    notes = (f"left out: the splits {', '.join(left)}",) if left else ()
    if not wikitext:
        return _dealt(given, named.name, config, notes)
    return Contents(splits={split: _merged(parts) for split, parts in given.items()}, notes=notes)


def _dealt(
    given: dict[str, list[Piece]], donor_name: str | None, config: CorpusConfig, notes: tuple[str, ...]
) -> Contents:
    """Tables of named splits; the rows of one of them are dealt out where splits are missing."""
    missing = [split for split in SPLITS if split not in given]
    if not missing:
        return Contents(splits=given, notes=notes)
    donor = next(split for split in (*SPLITS, "") if split in given)
    rows = given[donor]
    to = tuple(split for split in SPLITS if split in missing or split == donor)
    source = donor_name or _listed([piece.label for piece in rows])
    note = (
        f"{', '.join(to)} cut from {source} row by row, by a hash of the row's text (equal rows stay together), "
        f"seed {config.seed}: {100 * config.holdout:g} % for each held-out split"
    )
    kept = {split: pieces for split, pieces in given.items() if split != donor}
    return Contents(splits=kept, rows=rows, rows_to=to, notes=(*notes, note))


def _chosen(found: list[Found], config: CorpusConfig) -> tuple[list[Found], tuple[str, ...]]:
    """The files that are the corpus, and a note on those that are not."""
    if config.kind == "bytes":
        return found, ()
    wikitext = [file for file in found if _WIKITEXT.fullmatch(_base(file))]
    tables = [file for file in found if _table(file)]
    chosen = wikitext or tables or found
    left = [file.label for file in found if file not in set(chosen)]
    what = "WikiText's own files" if wikitext else "tables"
    return chosen, (f"left out beside {what}: {_listed(left)}",) if left else ()


def _file_contents(found: list[Found], config: CorpusConfig, notes: tuple[str, ...]) -> Contents:
    """Splits that the files name are kept; what is missing is cut by document."""
    labels = {file.label: split_of(file.label) for file in found}
    named = all(labels.values()) and len(found) > 0
    if config.kind == "text" and _table(found[0]):
        return _table_contents(found, labels if named else {}, config, notes)
    pieces = [(_piece(file, config), labels[file.label] if named else None) for file in found]
    if not named:
        return _cut({}, _documents([piece for piece, _ in pieces]), SPLITS, config, _counted(found), notes)
    splits = {split: [piece for piece, of in pieces if of == split] for split in SPLITS}
    splits = {split: listed for split, listed in splits.items() if listed}
    for split, listed in splits.items():
        require(
            sum(piece.size for piece in listed) > 0,
            f"a split must not be empty, found 0 bytes in {_listed([piece.path for piece in listed])} ({split}): "
            "remove the file or fill it",
        )
    missing = [split for split in SPLITS if split not in splits]
    if not missing:
        return Contents(splits=dict(splits), notes=notes)
    donor = next(split for split in SPLITS if split in splits)
    given = splits.pop(donor)
    wanted = [split for split in SPLITS if split in missing or split == donor]
    return _cut(dict(splits), _documents(given), wanted, config, _listed([piece.label for piece in given]), notes)


def _table_contents(
    found: list[Found], labels: dict[str, str | None], config: CorpusConfig, notes: tuple[str, ...]
) -> Contents:
    given: dict[str, list[Piece]] = {}
    with ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(lambda file: tables.pieces(file, _table(file) or "csv", config.column), found))
    for file, parts in zip(found, listed, strict=True):
        given.setdefault(labels.get(file.label) or "", []).extend(parts)
    return _dealt(given, None if labels else _counted(found), config, notes)


def _piece(file: Found, config: CorpusConfig) -> Piece:
    kind: Format = "bytes" if config.kind == "bytes" else "wikitext" if _WIKITEXT.fullmatch(_base(file)) else "text"
    return Piece(file.path, file.label, kind, 0, file.size, file.size)


def _documents(pieces: list[Piece]) -> list[Piece]:
    """The documents of the pieces: articles of WikiText, otherwise files."""
    documents = []
    for piece in pieces:
        edges = [*article_starts(piece), piece.stop] if piece.format == "wikitext" else [0, piece.stop]
        documents += [_part(piece, start, stop) for start, stop in pairwise(edges)]
    return documents


def _part(piece: Piece, start: int, stop: int) -> Piece:
    return replace(piece, start=start, stop=stop, size=stop - start)


def split_of(label: str) -> str | None:
    """The split that a path names (`wiki.valid.raw`, `train/00.txt`, `test-00000-of-00001.parquet`), if any."""
    for part in reversed(label.lower().split("/")):
        words = [_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part) if word in _SPLIT_WORDS]
        if words:
            return words[0]
    return None


def _cut(
    splits: dict[str, list[Piece]],
    documents: list[Piece],
    wanted: list[str] | tuple[str, ...],
    config: CorpusConfig,
    donor: str,
    notes: tuple[str, ...],
) -> Contents:
    """Deal the documents out to the wanted splits: chosen by seed, each split in the order of the corpus.

    Where documents are too few or too unequal for shares near `holdout`, their bytes are cut, at line ends in text.
    """
    total = sum(document.size for document in documents)
    chosen = _by_document(documents, [split for split in wanted if split != "train"], config)
    if chosen is None:
        cut = _by_bytes(documents, wanted, config)
        how = "by bytes" if config.kind == "bytes" else "at line ends"
        how = f"{how} (too few documents to deal out whole: {len(documents)})"
    else:
        cut = {split: [d for d, to in zip(documents, chosen, strict=True) if to == split] for split in wanted}
        how = f"by document, seed {config.seed}"
    shares = ", ".join(
        f"{split} {100 * sum(piece.size for piece in cut[split]) / total:.1f} %" for split in wanted if split in cut
    )
    note = f"{', '.join(wanted)} cut from {donor} {how}: {shares}"
    merged = {split: _merged(pieces) for split, pieces in cut.items()}
    return Contents(splits={**splits, **merged}, notes=(*notes, note))


def _by_document(documents: list[Piece], held: list[str], config: CorpusConfig) -> list[str] | None:
    """The split of every document, or None when whole documents cannot come within a factor 2 of the share."""
    import numpy as np

    total = sum(document.size for document in documents)
    order = [int(i) for i in np.random.Generator(np.random.Philox(config.seed)).permutation(len(documents))]
    chosen = ["train"] * len(documents)
    for split in held:
        target, taken = config.holdout * total, 0
        for i in order:
            if chosen[i] == "train" and 0 < documents[i].size <= target - taken:
                chosen[i], taken = split, taken + documents[i].size
        if taken == 0 and target > 0:
            smallest = min(
                (i for i in order if chosen[i] == "train" and documents[i].size), key=lambda i: documents[i].size
            )
            chosen[smallest], taken = split, documents[smallest].size
        if not target / 2 <= taken <= 2 * target:
            return None
    return chosen


def _by_bytes(
    documents: list[Piece], wanted: list[str] | tuple[str, ...], config: CorpusConfig
) -> dict[str, list[Piece]]:
    """The documents' bytes, cut into one contiguous part for each wanted split, the held-out ones last."""
    total = sum(document.size for document in documents)
    held = [split for split in wanted if split != "train"]
    cuts = [0, *(round(total * (1 - config.holdout * (len(held) - i))) for i in range(len(held))), total]
    parts = {}
    for split, start, stop in zip(["train", *held], cuts[:-1], cuts[1:], strict=True):
        parts[split] = _slice(documents, start, stop, config.kind == "text")
    return parts


def _slice(documents: list[Piece], start: int, stop: int, lines: bool) -> list[Piece]:
    """Bytes [start, stop) of the documents laid end to end; with `lines`, edges inside one move to a line end."""
    parts, at = [], 0
    for document in documents:
        low, high = max(start - at, 0), min(stop - at, document.size)
        if low < high:
            edges = (document.start + low, document.start + high)
            if lines:
                edges = (_line(document, edges[0]), _line(document, edges[1]))
            if edges[0] < edges[1]:
                parts.append(_part(document, *edges))
        at += document.size
    return parts


def _line(document: Piece, at: int) -> int:
    """`at`, moved to behind the next line end of the document; in a document without lines, to a character."""
    if at in (document.start, document.stop):
        return at
    if document.format == "manual":
        ahead = manual()[0][at : document.stop]
    else:
        with storage.opened(document.path) as file:
            ahead = file.read_at(min(BLOCK, document.stop - at), at)
    found = ahead.find(b"\n")
    if found >= 0:
        return at + found + 1
    return at + next((i for i, byte in enumerate(ahead[:4]) if byte & 0xC0 != 0x80), 0)


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours in the same input as one piece."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and last.path == piece.path and last.stop == piece.start and piece.format != "bytes":
            merged[-1] = replace(last, stop=piece.stop, size=last.size + piece.size)
        else:
            merged.append(piece)
    return merged


def _table(file: Found) -> Format | None:
    return _TABLES.get(PurePosixPath(file.label.lower()).suffix)


def _base(file: Found) -> str:
    return file.label.rpartition("/")[2]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "corpus"


def _counted(found: list[Found]) -> str:
    return found[0].label if len(found) == 1 else f"the {len(found)} files"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
