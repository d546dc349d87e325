"""A corpus is found as it was prepared before, or made (`pipeline.prepare.make`)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import MANIFEST, SPLITS, Corpus, open_corpus, read_manifest
from pipeline.events import Event, OnEvent, silent
from pipeline.prepare import sources
from pipeline.prepare.hub import WIKITEXT, HubUnreachable
from pipeline.prepare.make import Making, is_intact
from pipeline.prepare.manifest import fingerprint_of
from pipeline.prepare.mix import mixed
from pipeline.prepare.sources import Source
from pipeline.storage import uri as storage
from pipeline.storage.path import AnyPath, locate


def prepare(
    config: CorpusConfig, *, local: bool = False, on_event: OnEvent = silent, sha256: str | None = None
) -> Corpus:
    """The prepared corpus: reused where a matching manifest is found, otherwise made, in this process (`local`) or by
    Ray Data on the Ray that is already initialised.

    `sha256`: what the corpus was earlier; where it lies prepared still, no hub is asked for another.

    Of a mix, each part is prepared by itself; a mix of any of them finds it again.

    Raises: UserError when the corpus is missing, empty or invalid, or the folder cannot be written.
    """
    if config.mix:
        each = []
        for part in config.parts:
            with part.named():
                each.append(prepare(config.of_part(part), local=local, on_event=on_event))
        return mixed(config, each)
    known = None if sha256 is None else _known(config, sha256)
    named = _named(config) if known is None else iter((known,))
    try:
        return _prepared(next(named), config, local, on_event)
    except HubUnreachable as error:
        source = next(named, None)
        if source is None:
            raise
        note = f"{error.what}: using the {source.name}"
    on_event(Event("note", note))
    corpus = _prepared(source, config, local, on_event)
    return replace(corpus, notes=(note, *corpus.notes))


def split_sizes(config: CorpusConfig) -> dict[str, int] | None:
    """About how many bytes each split has, or will have; None where only preparing can tell. Writes nothing, asks no
    hub. Raises: UserError when the corpus is missing or empty.
    """
    if config.mix:
        return _sum_of_sizes([split_sizes(config.of_part(part)) for part in config.parts])
    named = list(_named(config))
    for source in named:
        if manifest := read_manifest(_folder(source, config)[0]):
            return {name: split["bytes"] for name, split in manifest["splits"].items()}
    return sources.expected_sizes(named[0], config)


def _sum_of_sizes(parts: list[dict[str, int] | None]) -> dict[str, int] | None:
    known = [sizes for sizes in parts if sizes is not None]
    return {name: sum(sizes[name] for sizes in known) for name in SPLITS} if len(known) == len(parts) else None


def _named(config: CorpusConfig) -> Iterator[Source]:
    """The source that the config names; where it names none, another behind it for a hub that is out of reach."""
    if config.source == "path" or (config.source == "auto" and config.path is not None):
        yield sources.files(config)
    elif config.source == "hub" or (config.source == "auto" and config.hub is not None):
        assert config.hub is not None
        yield sources.hub_data_set(config, config.hub)
    elif config.whole:
        yield sources.embedded_media(config)
    else:
        if config.source in ("auto", "wikitext"):
            yield sources.hub_data_set(config, WIKITEXT)
        if config.source in ("auto", "manual", "embedded"):
            yield sources.reference_manual(config)


def _folder(source: Source, config: CorpusConfig) -> tuple[AnyPath, str]:
    """Where the source is prepared, and its fingerprint."""
    fingerprint = fingerprint_of(source, config)
    return locate(config.prepared) / f"{source.slug}-{fingerprint[:12]}", fingerprint


def _known(config: CorpusConfig, sha256: str) -> Source | None:
    """The source that is prepared already with that sha256."""
    for source in _named(config):
        manifest = read_manifest(_folder(source, config)[0])
        if manifest is not None and manifest["sha256"] == sha256:
            return source
    return None


def _prepared(source: Source, config: CorpusConfig, local: bool, on_event: OnEvent) -> Corpus:
    folder, fingerprint = _folder(source, config)
    if manifest := _matching(folder, config, on_event):
        on_event(Event("note", f"{source.name}: already prepared in {folder}, sha256 {manifest['sha256']}"))
    else:
        Making(source, config, folder, fingerprint, local, on_event).make()
    return open_corpus(folder, config)


def _matching(folder: AnyPath, config: CorpusConfig, on_event: OnEvent) -> dict[str, Any] | None:
    """The manifest of a folder that is finished, its shards as they should be; if not, it is finished no more."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    listed = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    sizes = storage.sizes_in(folder)
    wrong = [shard["name"] for shard in listed if not is_intact(folder, sizes, shard, config.verify)]
    if wrong:
        on_event(Event("note", f"{len(wrong)} of {len(listed)} shards are missing or altered: making them again"))
        storage.remove(folder / MANIFEST)
        return None
    return manifest
