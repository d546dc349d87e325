"""A mix: corpora of several kinds, each prepared by itself, and a manifest that names them."""

import hashlib
import json
from typing import Any

from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import MANIFEST, MIX, VERSION, Corpus, CorpusPart, read_manifest
from pipeline.corpus.mixed import digest_of
from pipeline.prepare.manifest import command
from pipeline.storage import uri as storage
from pipeline.storage.path import locate


def mixed(config: CorpusConfig, corpora: list[Corpus]) -> Corpus:
    """The mix of the parts that the config names, prepared in this order; its manifest is written unless it is there.

    Its sha256 is that of its kinds and their content, however many lanes read each.
    """
    parts = [
        {"kind": part.kind, "lanes": part.lanes, "folder": corpus.folder.name, "sha256": corpus.sha256}
        for part, corpus in zip(config.parts, corpora, strict=True)
    ]
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = locate(config.prepared) / f"mix-{fingerprint[:12]}"
    manifest = read_manifest(folder)
    if manifest is None or manifest["parts"] != parts:  # Its folder's name says which they are: else it was changed.
        manifest = _described(config, corpora, parts) | {"fingerprint": fingerprint, "parts": parts}
        storage.make_folder(folder)
        storage.write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    mix = tuple(CorpusPart(part.kind, part.lanes, corpus) for part, corpus in zip(config.parts, corpora, strict=True))
    return Corpus(folder, manifest, tuple(manifest["notes"]), config.verify, parts=mix)


def _described(config: CorpusConfig, corpora: list[Corpus], parts: list[dict[str, Any]]) -> dict[str, Any]:
    named = list(zip(config.parts, corpora, strict=True))
    notes = [f"{part.kind}: {part.lanes} lanes, {corpus.name}, sha256 {corpus.sha256[:16]}" for part, corpus in named]
    return {
        "format": MIX,
        "version": VERSION,
        "name": "mix of " + ", ".join(f"{part.kind} ({corpus.name})" for part, corpus in named),
        "command": command(config),
        "notes": notes + [f"{part.kind}: {note}" for part, corpus in named for note in corpus.notes],
        "bytes": sum(corpus.manifest["bytes"] for corpus in corpora),
        "documents": sum(corpus.manifest["documents"] for corpus in corpora),
        "sha256": digest_of([(part["kind"], part["sha256"]) for part in parts]),
    }
