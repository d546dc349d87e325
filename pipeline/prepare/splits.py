"""Splits that a corpus does not bring: cut from those it has, by whole documents wherever that can be done."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from h2q.errors import require
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import SPLITS
from pipeline.prepare.cuts import line_start, reach
from pipeline.prepare.inputs import InputPart
from pipeline.prepare.readers import bytes_at
from pipeline.prepare.texts import article_starts


@dataclass(frozen=True)
class Contents:
    """The parts of every split, in order. `rows` are tables whose rows are still to be dealt out to the splits
    `rows_to`, each by a hash of its text.

    `notes` say in sentences what was decided, for the people who read a summary.
    """

    splits: dict[str, list[InputPart]] = field(default_factory=dict)
    rows: list[InputPart] = field(default_factory=list)
    rows_to: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def cut(
    splits: dict[str, list[InputPart]],
    documents: list[InputPart],
    wanted: list[str] | tuple[str, ...],
    config: CorpusConfig,
    donor: str,
    notes: tuple[str, ...],
) -> Contents:
    """Deal the documents out to the wanted splits: chosen by seed, each split in the order of the corpus.

    Where documents are too few or too unequal for shares near `holdout`, their bytes are cut, at line ends in text;
    pictures and sounds never are. Raises: UserError where these are fewer than the splits.
    """
    total = sum(document.size for document in documents)
    chosen = _by_document(documents, [split for split in wanted if split != "train"], config)
    require(
        chosen is not None or not config.whole,
        f"each of {', '.join(wanted)} must get a file of {config.kind}, since none is cut, found {len(documents)} "
        f"({few([document.shown for document in documents])}): give more files, or folders named train, valid and test",
    )
    if chosen is None:
        dealt = _by_bytes(documents, wanted, config)
        how = "by bytes" if config.kind == "bytes" else "at line ends"
        how = f"{how} (too few documents to deal out whole: {len(documents)})"
    else:
        dealt = {split: [d for d, to in zip(documents, chosen, strict=True) if to == split] for split in wanted}
        how = f"by document, seed {config.seed}"
    shares = ", ".join(f"{split} {100 * sum(part.size for part in dealt[split]) / total:.1f} %" for split in wanted)
    note = f"{', '.join(wanted)} cut from {donor} {how}: {shares}"
    return Contents(splits=splits | {split: merged(parts) for split, parts in dealt.items()}, notes=(*notes, note))


def _by_document(documents: list[InputPart], held: list[str], config: CorpusConfig) -> list[str] | None:
    """The split of every document, or None when whole documents cannot come within a factor 2 of the share; where they
    have to stay whole, as near as they can with one in each split, and None when they are too few for that."""
    total = sum(document.size for document in documents)
    order = [int(i) for i in np.random.Generator(np.random.Philox(config.seed)).permutation(len(documents))]
    chosen = ["train"] * len(documents)
    for number, split in enumerate(held):
        target, taken = config.holdout * total, 0
        left = [i for i in order if chosen[i] == "train" and documents[i].size]
        spare = len(left) - (len(held) - number if config.whole else 0)  # the splits behind it, and train, need one
        for i in left:
            if documents[i].size <= target - taken and spare > 0:
                chosen[i], taken, spare = split, taken + documents[i].size, spare - 1
        if taken == 0 and target > 0 and left:
            smallest = min(left, key=lambda i: documents[i].size)
            chosen[smallest], taken = split, documents[smallest].size
        if not config.whole and not target / 2 <= taken <= 2 * target:
            return None
    # An empty file of pictures is refused, by name, when it is read.
    some = any(to == "train" and (d.size or config.whole) for to, d in zip(chosen, documents, strict=True))
    return chosen if some else None


def _by_bytes(
    documents: list[InputPart], wanted: list[str] | tuple[str, ...], config: CorpusConfig
) -> dict[str, list[InputPart]]:
    """The documents' bytes, cut into one contiguous part for each wanted split, the held-out ones last."""
    total = sum(document.size for document in documents)
    held = [split for split in wanted if split != "train"]
    cuts = [0, *(round(total * (1 - config.holdout * (len(held) - i))) for i in range(len(held))), total]
    ahead = reach(total, config.holdout) if config.kind == "text" else 0
    by_split = {}
    for split, start, stop in zip(["train", *held], cuts[:-1], cuts[1:], strict=True):
        by_split[split] = _slice(documents, start, stop, ahead)
    return by_split


def _slice(documents: list[InputPart], start: int, stop: int, ahead: int) -> list[InputPart]:
    """Bytes [start, stop) of the documents laid end to end; edges inside one move to a line end in the bytes ahead."""
    parts, at = [], 0
    for document in documents:
        low, high = max(start - at, 0), min(stop - at, document.size)
        if low < high:
            edges = (document.start + low, document.start + high)
            if ahead:
                edges = (_line(document, edges[0], ahead), _line(document, edges[1], ahead))
            if edges[0] < edges[1]:
                parts.append(part_of(document, *edges))
        at += document.size
    return parts


def _line(document: InputPart, at: int, ahead: int) -> int:
    """`at`, moved to behind the next line end in the bytes ahead; where none is there, to a character."""
    if at in (document.start, document.stop):
        return at
    return at + line_start(np.frombuffer(bytes_at(document, at, min(ahead, document.stop - at)), np.uint8))


def merged(parts: list[InputPart]) -> list[InputPart]:
    """Neighbours in the same input as one part."""
    joined: list[InputPart] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and last.path == part.path and last.stop == part.start and part.format != "bytes":
            joined[-1] = replace(last, stop=part.stop, size=last.size + part.size)
        else:
            joined.append(part)
    return joined


def deal_rows(
    given: dict[str, list[InputPart]], donor_name: str | None, config: CorpusConfig, notes: tuple[str, ...]
) -> Contents:
    """Tables of named splits; the rows of one of them are dealt out where splits are missing."""
    missing = [split for split in SPLITS if split not in given]
    if not missing:
        return Contents(splits=given, notes=notes)
    donor = next(split for split in (*SPLITS, "") if split in given)
    rows = given[donor]
    to = tuple(split for split in SPLITS if split in missing or split == donor)
    source = donor_name or few([part.label for part in rows])
    note = (
        f"{', '.join(to)} cut from {source} row by row, by a hash of the row's text (equal rows stay together), "
        f"seed {config.seed}: {100 * config.holdout:g} % for each held-out split"
    )
    kept = {split: parts for split, parts in given.items() if split != donor}
    return Contents(splits=kept, rows=rows, rows_to=to, notes=(*notes, note))


def documents_of(parts: list[InputPart]) -> list[InputPart]:
    """The documents of the parts: articles of WikiText, otherwise files."""
    documents = []
    for part in parts:
        edges = [*article_starts(part), part.stop] if part.format == "wikitext" else [0, part.stop]
        documents += [part_of(part, start, stop) for start, stop in pairwise(edges)]
    return documents


def part_of(part: InputPart, start: int, stop: int) -> InputPart:
    return replace(part, start=start, stop=stop, size=stop - start)


def few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
