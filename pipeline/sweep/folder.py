"""The folder of a sweep: how it is claimed, found again, and kept to one process and one search."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

from h2q.errors import UserError, require
from pipeline.config import RunConfig, TrackingConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.find import SWEEP
from pipeline.runs.folder import (
    LOST_OPTIONS,
    RunFolder,
    by_start,
    check_storage,
    holds_anything,
    new_names,
    occupied,
    renamed_into_place,
)
from pipeline.runs.older import FORMAT, config_from
from pipeline.storage.held import Held, held
from pipeline.storage.json_file import Count, fitting, object_of, shape_of
from pipeline.storage.uri import DamagedFile
from pipeline.sweep.config import SearchConfig, SweepConfig
from pipeline.tracking.provenance import flatten
from pipeline.training.origin import check_preset

TABLE = "table.csv"
"""The ranked table, as the sweep's folder holds it."""
SKIPPED = "skipped.json"
"""Draws that were no valid configuration, and why."""
_FREE = ("search.trials", "search.concurrency", "search.gpu_share", "run.verbose", "run.retries", "run.timeout")
"""Options that may differ when a sweep is resumed: they change no trial."""


def sweep_folder(storage: Path, config: SweepConfig, preset: str) -> RunFolder:
    """Where the sweep lies, or will lie; without a name, where nothing lies until `claim_sweep` has given it one."""
    return RunFolder(storage / (config.run.name or next(new_names(f"tune-{preset}", unseen=True))))


def find_sweep(storage: Path, name: str | None, job: str) -> RunFolder:
    """The folder of the sweep `name`, or of the one that was last started or resumed, that the job began.

    Raises: UserError if there is none.
    """
    sweeps = by_start(storage.glob(f"*/{SWEEP}"))
    folder = RunFolder(storage / (name or ""))
    for path in reversed(sweeps):
        if name in (None, path.parent.name):
            found = RunFolder(path.parent)
            stored = read_sweep(found)
            began = job_of(stored["command"]) if stored else job
            if began == job:
                return found
            require(not name, f"{name} was begun by python jobs/{began}.py: continue it with that and --resume")
    require(not name or not holds_anything(folder), occupied(folder, "sweep", SWEEP))
    there = f"; there are {', '.join(path.parent.name for path in sweeps[-3:])}" if sweeps else ""
    raise UserError(f"no sweep {name or 'to resume'} in {storage}{there}: leave out --resume to start one")


def earlier_sweep(named: str | None, run: RunConfig, job: str) -> tuple[RunFolder, str, SweepConfig]:
    """Folder, preset and config of the sweep to resume, of which `run` says storage and name.

    `named`: the preset on the command line, if any. Raises: UserError if there is no such sweep.
    """
    folder = find_sweep(check_storage(run.storage), run.name, job)
    stored = read_sweep(folder)
    assert stored is not None
    check_preset(named, stored["preset"], folder.name)
    return folder, stored["preset"], sweep_config(folder, stored)


def check_new(folder: RunFolder, config: SweepConfig) -> None:
    """Refuse a name that is taken, before anything dear is done for it: `claim_sweep` has the last word."""
    if config.run.name and holds_anything(folder):
        raise _taken(folder)


def _taken(folder: RunFolder) -> UserError:
    if not (folder.path / SWEEP).exists():
        return UserError(occupied(folder, "sweep", SWEEP))
    return UserError(
        f"name must be new, but {folder.path} exists: add --resume to continue that sweep, or choose another --name"
    )


Notes = dict[str, Any]
"""Further files of a sweep's folder, by name, as JSON."""


def claim_sweep(
    storage: Path, config: SweepConfig, preset: str, command: str, corpus: Corpus, notes: Notes
) -> RunFolder:
    """Make the folder of a new sweep, with its options in it; one that a killed start left empty is used.

    Raises: UserError if there is anything of the name that was asked for.
    """
    for name in [config.run.name] if config.run.name else new_names(f"{job_of(command)}-{preset}"):
        folder, named = RunFolder(storage / name), replace(config, run=replace(config.run, name=name))
        fill = partial(_note, config=named, preset=preset, command=command, corpus=corpus, notes=notes)
        if renamed_into_place(folder, fill):
            return folder
    raise _taken(RunFolder(storage / str(config.run.name)))


def job_of(command: str) -> str:
    """`study` of `python jobs/study.py …`."""
    found = re.search(r"jobs/(\w+)\.py", command)
    return found[1] if found else "tune"


def note_again(folder: RunFolder, config: SweepConfig, corpus: Corpus, notes: Notes) -> None:
    """Note the options of a sweep that is resumed. Raises: UserError if that is to be on another text."""
    earlier = read_sweep(folder)
    assert earlier is not None
    was = earlier["corpus_sha256"]
    require(
        was == corpus.sha256,
        f"resume needs the corpus of the sweep: its sha256 was {was[:16]}, {corpus.name} has {corpus.sha256[:16]}",
    )
    _note(folder, config=config, preset=earlier["preset"], command=earlier["command"], corpus=corpus, notes=notes)


def _note(folder: RunFolder, *, config: SweepConfig, preset: str, command: str, corpus: Corpus, notes: Notes) -> None:
    for name, value in notes.items():
        folder.write(name, value)
    sweep = {
        "format": FORMAT,
        "started": time.time(),
        "preset": preset,
        "command": command,
        "corpus_sha256": corpus.sha256,
        "search": config.search.to_dict(),
        "run": replace(config.run, resume=False).to_dict(),
    }
    folder.write(SWEEP, sweep)


def read_sweep(folder: RunFolder) -> dict[str, Any] | None:
    """Preset, command, search and options of the sweep, None where there is none."""
    search, run = (shape_of(config, complete=False) for config in (SearchConfig, RunConfig))
    shape = object_of(format=NotRequired[Count], preset=str, command=str, corpus_sha256=str, search=search, run=run)
    return folder.read(SWEEP, shape, LOST_OPTIONS)


def sweep_config(folder: RunFolder, stored: dict[str, Any]) -> SweepConfig:
    """The config that `read_sweep` found. Raises: UserError if it is damaged."""
    where = str(folder.path / SWEEP)
    run = config_from(stored["run"], stored.get("format", 0), where, LOST_OPTIONS)
    search = fitting(stored["search"], shape_of(SearchConfig, complete=True), where, LOST_OPTIONS)
    try:
        return SweepConfig(run=run, search=SearchConfig.from_dict(search | {"space": tuple(search["space"])}))
    except UserError as error:
        raise DamagedFile(f"{where} is damaged: {error}") from error


def result_files(folder: RunFolder) -> list[Path]:
    """The files that say what was searched and what came out."""
    files = [folder.path / TABLE, folder.path / SWEEP, folder.summary_file, folder.path / SKIPPED]
    return [*files, *sorted(folder.path.glob("study.*"))]


def check_same_search(earlier: SweepConfig, later: SweepConfig) -> None:
    """Refuse to go on with another search: its trials could not be compared with the earlier ones.

    Raises: UserError naming the first field that differs, and both values.
    """
    was, now = _compared(earlier), _compared(later)
    for name, value in now.items():
        require(
            value == was[name],
            f"resume keeps to the search that was begun: {name.removeprefix('run.')} was {was[name]}, now {value}; "
            "leave it out, or start another --name",
        )


def _compared(config: SweepConfig) -> dict:
    run = replace(config.run, name=None, resume=False, storage="", tracking=TrackingConfig())
    flat = flatten({"search": config.search.to_dict(), "run": run.to_dict()})
    return {name: value for name, value in flat.items() if name not in _FREE}


@contextmanager
def only_one(folder: RunFolder, say: Callable[[str], object]) -> Iterator[None]:
    """One process at a time works on a sweep. `say`: told of a wait.

    Raises: UserError naming the process that does.
    """
    with ExitStack() as held_here:
        try:
            held_here.enter_context(held(folder.lock_file, say))
        except Held as error:
            raise UserError(f"the sweep {folder.name} is run by {error}: wait for its end, or stop it") from None
        yield
