"""Ray Data: a corpus becomes shards and a manifest.

A plan lists the tasks: each takes some parts of the input and writes the shards of their bytes, whoever runs it and
whenever. Order is therefore exact by construction, any task can be done again alone, and Ray Data only spreads them.
A receipt is written behind every finished task, so that an interrupted preparation goes on where it was; the manifest
is written last.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import MANIFEST, Corpus, Verify, open_corpus, read_manifest
from pipeline.corpus.shards import sha256_of
from pipeline.events import Event, OnEvent, silent
from pipeline.prepare import sources
from pipeline.prepare.hub import WIKITEXT, HubUnreachable
from pipeline.prepare.manifest import describe, fingerprint_of
from pipeline.prepare.sources import Source
from pipeline.prepare.splits import Contents
from pipeline.prepare.tasks import Task, plan
from pipeline.prepare.write import Receipt, run_task
from pipeline.storage import uri as storage
from pipeline.storage.json_file import read_hint
from pipeline.storage.lock import lock
from pipeline.storage.path import AnyPath, locate
from pipeline.storage.uri import is_uri


def prepare(config: CorpusConfig, *, local: bool = False, on_event: OnEvent = silent) -> Corpus:
    """The prepared corpus: reused where a matching manifest is found, otherwise made, in this process (`local`) or by
    Ray Data on the Ray that is already initialised.

    Raises: UserError when the corpus is missing, empty or invalid, or the folder cannot be written.
    """
    if config.source == "path" or (config.source == "auto" and config.path is not None):
        return _prepared(sources.files(config), config, local, on_event)
    if config.source == "hub" or (config.source == "auto" and config.hub is not None):
        assert config.hub is not None
        return _prepared(sources.hub_data_set(config, config.hub), config, local, on_event)
    if config.source == "manual":
        return _prepared(sources.reference_manual(config), config, local, on_event)
    assert config.source in ("auto", "wikitext"), config.source
    try:
        return _prepared(sources.hub_data_set(config, WIKITEXT), config, local, on_event)
    except HubUnreachable as error:
        if config.source == "wikitext":
            raise
        source = sources.reference_manual(config)
        note = f"{error.what}: using the {source.name}"
    on_event(Event("note", note))
    corpus = _prepared(source, config, local, on_event)
    return replace(corpus, notes=(note, *corpus.notes))


def _prepared(source: Source, config: CorpusConfig, local: bool, on_event: OnEvent) -> Corpus:
    fingerprint = fingerprint_of(source, config)
    folder = locate(config.prepared) / f"{source.slug}-{fingerprint[:12]}"
    if manifest := _matching(folder, config, on_event):
        on_event(Event("note", f"{source.name}: already prepared in {folder}, sha256 {manifest['sha256']}"))
    else:
        contents = source.contents()
        storage.make_folder(folder)
        with _only_one(folder):
            if read_manifest(folder) is None:
                _make(source, contents, config, folder, fingerprint, local, on_event)
    return open_corpus(folder, config)


def _matching(folder: AnyPath, config: CorpusConfig, on_event: OnEvent) -> dict[str, Any] | None:
    """The manifest of a folder that is finished, its shards as they should be; if not, it is finished no more."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    listed = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    sizes = storage.sizes_in(folder)
    wrong = [shard["name"] for shard in listed if not _intact(folder, sizes, shard, config.verify)]
    if wrong:
        on_event(Event("note", f"{len(wrong)} of {len(listed)} shards are missing or altered: making them again"))
        storage.remove(folder / MANIFEST)
        return None
    return manifest


def _intact(folder: AnyPath, sizes: dict[str, int], shard: dict[str, Any], verify: Verify) -> bool:
    """Whether a shard has the size, and if it is to be verified always the content, that was written."""
    if sizes.get(shard["name"]) != shard["file_bytes"]:
        return False
    return verify == "first" or sha256_of(folder / shard["name"]) == shard["sha256"]


def _only_one(folder: AnyPath) -> AbstractContextManager[object]:
    """One preparation of a folder at a time on this machine."""
    if not isinstance(folder, Path):
        return nullcontext()
    try:
        return lock(folder / ".lock")
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another --corpus.prepared") from error


def _make(
    source: Source,
    contents: Contents,
    config: CorpusConfig,
    folder: AnyPath,
    fingerprint: str,
    local: bool,
    on_event: OnEvent,
) -> None:
    tasks = plan(contents, config, folder)
    sizes = storage.sizes_in(folder)
    receipts, left = [], []
    for task in tasks:
        receipt = _finished(task, sizes, config.verify)
        receipts += [receipt] if receipt else []
        left += [] if receipt else [task]
    total = sum(task.size for task in tasks)
    if receipts:
        on_event(Event("note", f"continuing in {folder}: {len(receipts)} of {len(tasks)} parts are there"))
    count = total - sum(task.size for task in left)
    on_event(Event("progress", source.name, count, total))
    everywhere = source.everywhere and is_uri(config.prepared)
    for receipt in _loop(left) if local else _ray(left, everywhere):
        receipts.append(receipt)
        count += receipt["size"]
        on_event(Event("progress", source.name, count, total))
    manifest = describe(source, contents, config, folder, fingerprint, receipts)
    storage.write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    for name in sizes:
        if name.endswith(".tmp"):
            # Left by a preparation that was killed: nobody else writes here while the folder is locked.
            storage.remove(folder / name)


def _finished(task: Task, sizes: dict[str, int], verify: Verify) -> dict[str, Any] | None:
    """The receipt of a task that was finished before and whose shards are still there."""
    if task.receipt not in sizes:
        return None
    receipt = read_hint(task.folder / task.receipt, Receipt, "its part is made again")
    if receipt is None or any(receipt[name] != getattr(task, name) for name in ("name", "number", "size")):
        return None
    listed = [shard for entry in receipt["splits"].values() for shard in entry["shards"]]
    return receipt if all(_intact(task.folder, sizes, shard, verify) for shard in listed) else None


def _loop(tasks: list[Task]) -> Iterator[dict[str, Any]]:
    return map(run_task, tasks)


def _ray(tasks: list[Task], everywhere: bool) -> Iterator[dict[str, Any]]:
    """The receipts of the tasks, as Ray Data finishes them; `everywhere`: all nodes see what tasks read and write."""
    if not tasks:
        return
    import ray

    quiet_ray_data()
    where = None
    if not everywhere:
        here, cpus, alone = _this_node()
        if cpus < 1:
            # The head of a cluster often has no CPUs to give: then this process does it itself.
            yield from _loop(tasks)
            return
        where = None if alone else {"ray.io/node-id": here}
    rows = [{"task": task.to_json()} for task in tasks]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_run_row, num_cpus=1, label_selector=where)
    for row in data.iter_rows():
        receipt = json.loads(row["receipt"])
        if "error" in receipt:
            raise UserError(receipt["error"])
        yield receipt


def _this_node() -> tuple[str, float, bool]:
    """The id of the node of this command, the CPUs it has to give, and whether it is the only one."""
    import ray

    alive = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
    mine = ray.get_runtime_context().get_node_id()
    return mine, alive[mine], len(alive) == 1


def _run_row(row: dict[str, Any]) -> dict[str, Any]:
    """A task on a worker. A user's mistake travels as a value: Ray would wrap the exception in a long traceback."""
    try:
        return {"receipt": json.dumps(run_task(Task.from_json(row["task"])))}
    except UserError as error:
        return {"receipt": json.dumps({"error": str(error)})}


def quiet_ray_data() -> None:
    """Keep Ray Data from drawing its own progress bars and from telling its plans."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
