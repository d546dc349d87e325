"""What a prepared corpus is: the content of its manifest."""

import hashlib
import json
import math
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from h2q.alphabet import BYTES
from pipeline.config import CorpusConfig
from pipeline.corpus.cache import Cache
from pipeline.corpus.compressors import gzip_bytes, xz_bytes
from pipeline.corpus.corpus import SPLITS, VERSION
from pipeline.corpus.split import Split
from pipeline.corpus.verified import remember_verified
from pipeline.mix import shown_mix
from pipeline.prepare.sources import Source
from pipeline.prepare.splits import Contents
from pipeline.shown import without_secrets
from pipeline.storage.path import AnyPath

SAMPLE = 2 << 20
"""Bytes of each split that are compressed for comparison."""


def describe(
    source: Source,
    contents: Contents,
    config: CorpusConfig,
    folder: AnyPath,
    fingerprint: str,
    receipts: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the folder contains, from the receipts and one reading of the streams."""
    receipts = sorted(receipts, key=lambda receipt: (receipt["name"], receipt["number"]))
    entries = {
        name: _entry([receipt["splits"][name] for receipt in receipts if name in receipt["splits"]]) for name in SPLITS
    }
    if isinstance(folder, Path):
        remember_verified([folder / shard["name"] for entry in entries.values() for shard in entry["shards"]])
    cache = Cache(Path(config.cache), config.cache_bytes)
    marks = config.kind if config.marked else None
    read = [Split(folder, name, entry, "", cache=cache, marks=marks) for name, entry in entries.items()]
    # Hashing and compressing let go of Python's lock. Through a cache, one after the other: each holds a shard in it.
    with ThreadPoolExecutor(os.cpu_count() if isinstance(folder, Path) else 1) as pool:
        splits = {split.name: entries[split.name] | measures for split, measures in zip(read, pool.map(_measure, read))}
    identity = [[name, split["bytes"], split["sha256"]] for name, split in splits.items()]
    return {
        "format": "h2q-corpus",
        "version": VERSION,
        "name": source.name,
        "licence": source.licence,
        "order": source.order,
        "source": source.identity,
        "options": options_of(config),
        "fingerprint": fingerprint,
        "command": command(config),
        "notes": [*contents.notes, *(byte_statistics(entries["train"]["histogram"]) if config.kind == "bytes" else ())],
        "bytes": sum(split["bytes"] for split in splits.values()),
        "documents": sum(split["documents"] for split in splits.values()),
        "sha256": hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        **({"marks": marks} if marks else {}),
        "splits": splits,
    }


def _entry(receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest says of a split, as far as its receipts tell."""
    listed = [shard for receipt in receipts for shard in receipt["shards"]]
    counts = np.array([receipt["histogram"] for receipt in receipts], np.int64).reshape(-1, 256).sum(axis=0)
    return {
        "bytes": sum(shard["bytes"] for shard in listed),
        "documents": sum(shard["documents"] for shard in listed),
        "sha256": "",
        "order0_bpb": entropy(counts),
        "gzip_bpb": None,
        "xz_bpb": None,
        "sample_bytes": 0,
        "histogram": counts.tolist(),
        "inputs": _joined([tuple(entry) for receipt in receipts for entry in receipt["inputs"]]),
        "shards": listed,
    }


def _measure(split: Split) -> dict[str, Any]:
    """The rest of it, from one reading of the split."""
    digest, sample = hashlib.sha256(), b""
    for symbols in split.symbols():
        digest.update((symbols if split.marks is None else symbols.astype("<u2")).data)
        part = symbols[: SAMPLE - len(sample)]
        sample += np.where(part < BYTES, part, 0).astype(np.uint8).tobytes()  # as it is stored
    measures: dict[str, Any] = {"sha256": digest.hexdigest()}
    if sample:
        blocks, size = [np.frombuffer(sample, np.uint8)], len(sample)
        rates = {"gzip_bpb": 8 * gzip_bytes(blocks) / size, "xz_bpb": 8 * xz_bytes(blocks, size) / size}
        measures |= {"sample_bytes": size} | rates
    return measures


def _joined(inputs: list[tuple[str, int]]) -> list[list[Any]]:
    """[input, its bytes in the split] in order; an input that several tasks read is listed once."""
    joined: list[list[Any]] = []
    for label, size in inputs:
        if joined and joined[-1][0] == label:
            joined[-1][1] += size
        else:
            joined.append([label, size])
    return joined


def entropy(counts: np.ndarray) -> float | None:
    """Order-0 entropy of a byte histogram, bits per byte; None for no bytes."""
    total = int(np.sum(counts))
    shares = [int(count) / total for count in counts if count] if total else []
    return -math.fsum(share * math.log2(share) for share in shares) + 0.0 if shares else None


def byte_statistics(histogram: list[int]) -> tuple[str, ...]:
    """In a sentence, how often which byte occurs: what there is to say of bytes that are no text. None of none."""
    total, present = sum(histogram), [byte for byte, count in enumerate(histogram) if count]
    often = sorted(present, key=lambda byte: -histogram[byte])[:4]
    listed = ", ".join(f"{byte:#04x} {histogram[byte] / total:.1%}" for byte in often)
    return (f"{len(present)} of the 256 byte values occur in train, most often {listed}",) if total else ()


def fingerprint_of(source: Source, config: CorpusConfig) -> str:
    """Digest of everything that decides the prepared bytes."""
    decisive = {"version": VERSION, "source": source.identity, "options": options_of(config)}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def options_of(config: CorpusConfig) -> dict[str, Any]:
    names = ("kind", "column", "invalid", "holdout", "seed", "shard_bytes")
    options = {name: getattr(config, name) for name in names} | {"separator": config.row_end}
    options |= {"markers": True} if config.markers and not config.whole else {}
    return options | ({"samples": config.samples} if config.kind == "audio" else {})


def command(config: CorpusConfig) -> str:
    """The command line that prepares this corpus again, checking every shard and rebuilding what does not match."""
    default = CorpusConfig()
    given = {name: value for name, value in config.to_dict().items() if value != getattr(default, name)} | {
        "verify": "always"
    }
    return f"python jobs/prepare.py {' '.join(_option(name, value) for name, value in given.items())}"


def _option(name: str, value: Any) -> str:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--corpus.{'' if value else 'no-'}{dashed}"
    shown = shown_mix(value) if name == "mix" else without_secrets(str(value))
    return f"--corpus.{dashed} {shlex.quote(shown)}"
