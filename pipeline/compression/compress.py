"""Compressing a file and getting it back, from the options to the figures."""

import contextlib
import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from h2q.baselines import parameters
from h2q.config import GrowthConfig, ModelConfig
from h2q.errors import UserError, require
from h2q.model import ByteModel
from pipeline.compression.archive import MOST_BYTES, Archive, read_archive
from pipeline.compression.codec import Coder, Decoder, Encoder, Learn, NoSuchCode, follow
from pipeline.compression.config import SUFFIX, CompressionConfig
from pipeline.config import PRESETS, RunConfig, TrainingConfig
from pipeline.corpus.shards import histogram
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.learner import LANES, Learner, learning_rates, updates_of
from pipeline.evaluation.scoring import check_alphabet
from pipeline.runs.checkpoint import MODEL, weights_sha256
from pipeline.runs.load import load_checkpoint, model_of
from pipeline.storage.json_file import fitting, object_of, shape_of
from pipeline.storage.uri import write_atomic
from pipeline.tracking.find import find_run

LANE_BYTES = 16 << 10
"""Of a file for each lane of a trained model: it starts without the bytes before it, and lanes go side by side."""
USUAL_LANES = 32
MOST_DIM = 1 << 12
MOST_PARAMETERS = 1 << 26
"""Of a model that is made because an archive says so: more than any preset has."""

PARTS: dict[str, Any] = {"model": ModelConfig, "training": TrainingConfig, "growth": GrowthConfig}
"""Of a config, what an archive holds of a model that learns."""

Progress = Callable[[int, int], None]
"""Bytes done, of so many."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was written, and what it took."""

    path: Path
    size: int
    """Bytes of the file."""
    archive_bytes: int
    seconds: float
    coder: str
    """The model that coded."""


def compress(options: CompressionConfig, progress: Progress) -> Outcome:
    """Write the archive of a file. Raises: UserError for whatever the user can mend."""
    began, path = time.perf_counter(), Path(options.output or options.file + SUFFIX)
    _check_target(path)
    data = _read(Path(options.file))
    archive = Archive(
        code=np.zeros(0, np.uint32),
        size=len(data),
        sha256=hashlib.sha256(data.data).hexdigest(),
        stride=0,
        lanes=1,
        threads=options.threads,
        machine=_machine(),
    )
    if options.run is not None:
        model, name, digest = _trained(options.run, options.storage)
        lanes = _lanes(options, len(data), min(USUAL_LANES, -(-len(data) // LANE_BYTES)))
        archive = replace(archive, model=digest, run=name, stride=max(1, model.config.seq_len // 2), lanes=lanes)
        learn = None
    else:
        config = PRESETS[options.preset or "laptop"]
        name = f"a new {options.preset or 'laptop'}, learning"
        lanes, updates, told = _lanes(options, len(data), LANES), updates_of(None, options.updates), config.to_dict()
        parts = {part: told[part] for part in PARTS}
        archive = replace(archive, config=parts, stride=config.model.seq_len, lanes=lanes, updates=updates)
        model, learn = _learner(archive, path)
    if len(data):
        check_alphabet(histogram(data), model.config.vocab, options.file, "FILE")
    require(
        model.config.mixer in ("attention", "state") and model.config.head_layout == "split",
        f"compressing takes a model with model.mixer attention or state, in the head layout split, and that of {name} "
        f"has model.mixer {model.config.mixer} and head layout {model.config.head_layout}: name another --run",
    )
    encoder = Encoder(data)
    _follow(model, archive, encoder, learn, progress)
    archive = replace(archive, code=encoder.result())
    size = archive.write(path)
    seconds = time.perf_counter() - began
    return Outcome(path=path, size=len(data), archive_bytes=size, seconds=seconds, coder=name)


def decompress(options: CompressionConfig, progress: Progress) -> Outcome:
    """Get the file of an archive back. Raises: UserError, and writes nothing, unless it is the same by sha256."""
    began, source = time.perf_counter(), Path(options.file)
    path = Path(options.output or options.file.removesuffix(SUFFIX))
    require(path != source, f"name the file to write: --output FILE; {source} has no {SUFFIX} to leave out")
    _check_target(path)
    archive = read_archive(source)
    learn = None
    if archive.config is None:
        model, name, digest = _trained(options.run or archive.run or "", options.storage)
        require(
            digest == archive.model,
            f"{source} was coded by the model {str(archive.model)[:16]} of {archive.run}, but {name} holds "
            f"{digest[:16]} (sha256 of {MODEL}): give --run the one that has it",
        )
    else:
        name = "a new model, learning"
        model, learn = _learner(archive, source)
    data = None
    with contextlib.suppress(NoSuchCode):
        data = _follow(model, archive, Decoder(archive.code), learn, progress)
    if data is None or hashlib.sha256(data.data).hexdigest() != archive.sha256:
        elsewhere = f"it was made with {archive.machine}, this is {_machine()}; decompress it there"
        damaged = "it is damaged, for it was made with the same as here; have it made again"
        why = damaged if archive.machine == _machine() else elsewhere
        raise UserError(f"{source} decodes to other bytes than were coded: {why}")
    write_atomic(path, data)
    seconds = time.perf_counter() - began
    return Outcome(path=path, size=len(data), archive_bytes=source.stat().st_size, seconds=seconds, coder=name)


def _follow(model: ByteModel, archive: Archive, coder: Coder, learn: Learn | None, progress: Progress) -> np.ndarray:
    torch.set_num_threads(archive.threads)
    return follow(
        model,
        archive.size,
        coder,
        stride=archive.stride,
        lanes=archive.lanes,
        learn=learn,
        progress=lambda done: progress(done, archive.size),
    )


def _lanes(options: CompressionConfig, size: int, usual: int) -> int:
    """The lanes of a file of `size` bytes: two bytes each at least, where there are several."""
    return max(1, min(options.lanes or usual, size // 2))


def _trained(run: str, storage: str) -> tuple[ByteModel, str, str]:
    """The model of a run, the run's name, and the sha256 of the model's file."""
    folder = find_run(run, storage=storage)
    checkpoint, path = load_checkpoint(folder)
    return model_of(checkpoint)[0], folder.name, weights_sha256(path)


def _learner(archive: Archive, source: Path) -> tuple[ByteModel, Learn]:
    """A new model, and how it learns from a chunk that was coded: as in `pipeline.evaluation.prequential.online`. In
    both directions of what the archive says alone."""
    config, device = _config_of(archive, source), torch.device("cpu")
    rate, lanes, updates = learning_rates(config, None, None), archive.lanes, archive.updates
    made = Learner(config, None, device, contextlib.nullcontext, lanes=lanes, rate=rate, updates=updates)
    return made.model, made.learn


def _config_of(archive: Archive, source: Path) -> RunConfig:
    assert archive.config is not None
    told = object_of(**{name: shape_of(kind, complete=True) for name, kind in PARTS.items()})
    found = fitting(archive.config, told, str(source), "have it made again, or use the version that made it")
    config = RunConfig(**{name: kind.from_dict(found[name]) for name, kind in PARTS.items()})
    model = config.model
    require(
        model.dim <= MOST_DIM and parameters(model) <= MOST_PARAMETERS,
        f"{source} needs a model of width {model.dim} and {parameters(model):,} parameters: at most {MOST_DIM} and "
        f"{MOST_PARAMETERS:,} are made for an archive",
    )
    return config


def _read(path: Path) -> np.ndarray:
    """The file's bytes. Raises: UserError if there is no such file."""
    if path.is_file() and path.stat().st_size == 0:
        return np.zeros(0, np.uint8)  # RawFile is for data to score, and nothing is nothing to score.
    file = RawFile(path, option="FILE")
    require(len(file) <= MOST_BYTES, f"a file to compress has at most {MOST_BYTES:,} bytes, {path} has {len(file):,}")
    return file.read(0, len(file))


def _check_target(path: Path) -> None:
    require(not path.exists(), f"{path} exists already: give --output another file, or move it away")
    require(path.absolute().parent.is_dir(), f"the folder of {path} does not exist: make it, or name another file")


def _machine() -> str:
    """What last digits depend on."""
    return f"torch {torch.__version__} on {platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
