"""An export from its options to its file: found, made, measured, written, noted in MLflow, registered."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2q.errors import UserError, first_line, require
from h2q.model import ByteModel
from pipeline.config import RunConfig
from pipeline.corpus.shards import histogram
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.progress import EvaluationProgress
from pipeline.evaluation.scoring import check_alphabet
from pipeline.evaluation.setup import corpus_of_run
from pipeline.evaluation.tracking import log_evaluation
from pipeline.evaluation.windows import Stream
from pipeline.export.config import ExportConfig
from pipeline.export.measure import Cost, cost_of
from pipeline.export.model_file import read_content, write_model
from pipeline.export.onnx_file import check_packages, write_onnx
from pipeline.export.page import write_page
from pipeline.export.parts import parts, plain
from pipeline.export.registered import Registry
from pipeline.runs.checkpoint import MODEL, Checkpoint
from pipeline.runs.find import corpus_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint, model_of
from pipeline.storage.uri import write_atomic
from pipeline.tracking.find import find_run

Writer = Callable[[ByteModel, dict[str, Any], str, frozenset[str]], bytes]
"""A plain model, what is told of it, the precision and the parts that stay fp16 → the bytes of a file."""

WRITERS: dict[str, Writer] = {"h2q": write_model, "page": write_page, "onnx": write_onnx}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was written."""

    path: Path
    model: str
    """Of which run, and at which step."""
    bytes: int
    sha256: str
    cost: Cost | None
    """Of int8, where it was measured."""
    notes: list[str]
    """What else there is to know, a line each."""


def export(options: ExportConfig, progress: EvaluationProgress) -> Outcome:
    """Export as the options say. Raises: UserError for whatever the user can mend; nothing is written then."""
    path = Path(options.to)
    require(not options.to.endswith("/"), f"{options.to} is a folder: name a file in it")
    _check_target(path, force=options.force)
    if options.written_as == "onnx":
        check_packages()
    progress.stage("loading the model")
    folder = find_run(options.run, storage=options.storage, tracking=options.tracking)
    registry = Registry(folder, options.tracking) if options.tracking.register else None
    checkpoint, place = load_checkpoint(folder)
    trained, config = model_of(checkpoint)
    model, notes, cost = plain(trained), [], None
    if model is not trained:
        notes.append(f"{config.model.kind} layers are written as the weights they make: no runtime knows their cores")
    if options.precision == "int8":
        _check_halves(model, options)
        try:
            cost = _measure(model, config, checkpoint, options, progress) if options.measure else None
        except UserError as error:
            if options.data is not None:  # a file that was named, and is none that can be scored
                raise
            notes.append(f"what int8 costs was not measured: {first_line(error)}; --data FILE measures it on a file")
    told = _told(folder, checkpoint, place, model, options, cost)
    progress.stage("writing")
    content = WRITERS[options.written_as](model, told, options.precision, frozenset(options.half))
    write_atomic(path, content)
    notes += _logged(folder, path, checkpoint.state["step"], cost, options)
    digest = hashlib.sha256(content).hexdigest()
    if registry is not None:
        notes.append(registry.take(path, options.written_as, digest))
    of = f"{folder.name} at step {checkpoint.state['step']}"
    return Outcome(path=path, model=of, bytes=len(content), sha256=digest, cost=cost, notes=notes)


def _logged(folder: RunFolder, path: Path, step: int, cost: Cost | None, options: ExportConfig) -> list[str]:
    """What MLflow took, for people. No metric is kept of a file that was named: it says little of the run."""
    if not options.tracking.enabled:
        return []
    metrics = {"export/bpb": cost.after} if cost and options.data is None else {}
    refused = log_evaluation(folder, options.tracking, metrics, step, [path], under="export")
    return [refused or f"logged to MLflow, on the run, as export/{path.name}"]


def _check_target(path: Path, *, force: bool) -> None:
    require(not path.is_dir(), f"{path} is a folder: name a file in it")
    require(
        not path.exists() or path.is_file(), f"{path} is no regular file: name one, which cannot be a device or a pipe"
    )
    require(force or not path.exists(), f"{path} exists already: give --to another file, or replace it with --force")
    folder = Path(os.path.realpath(path)).parent
    require(folder.is_dir(), f"{folder} is no folder: make it, or name another file")


def _check_halves(model: ByteModel, options: ExportConfig) -> None:
    known = [part.name for part in parts(model) if part.kind in ("table", "layer")]
    unknown = sorted(set(options.half) - set(known))
    require(not unknown, f"half must name parts of the model, got {' '.join(unknown)}; they are {', '.join(known)}")


def _measure(
    model: ByteModel, config: RunConfig, checkpoint: Checkpoint, options: ExportConfig, progress: EvaluationProgress
) -> Cost:
    progress.stage("reading the data")
    name = f"the {options.split} split"
    if options.data is not None:
        data: Stream = RawFile(options.data)
        name = data.name
    else:
        sha256 = checkpoint.state.get("corpus_sha256")
        require(sha256 is not None, "nothing tells which corpus the model was trained on")
        data = corpus_of_run(config, sha256, "the run", progress).splits[options.split]
    require(len(data) >= 2, f"{name} must hold at least 2 bytes, found {len(data)}")
    counts = sum((histogram(block) for block in data.stream()), np.zeros(256, np.int64))
    check_alphabet(counts, model.config.vocab, name)
    progress.stage("measuring what int8 costs")
    halves = frozenset(options.half)
    rounded, _ = read_content(write_model(model, {}, "int8", halves), "the file")
    return cost_of(model, rounded, data, name, halves, progress.through(len(data)))


def _told(
    folder: RunFolder,
    checkpoint: Checkpoint,
    place: Path,
    model: ByteModel,
    options: ExportConfig,
    cost: Cost | None,
) -> dict[str, Any]:
    """What a file says of its model."""
    corpus, corpus_sha256 = corpus_of(folder)
    best = checkpoint.state.get("best")
    return {
        "name": folder.name,
        "step": checkpoint.state["step"],
        "corpus": corpus,
        "corpus_sha256": corpus_sha256,
        "validation_bpb": best["bpb"] if best else None,
        "measured": None if cost is None else {"data": cost.data, "bpb": cost.after, "fp32_bpb": cost.before},
        "alphabet": model.config.vocab,
        "parameters": sum(view.numel() for part in parts(model) for view in part.views),
        "weights_sha256": hashlib.sha256((place / MODEL).read_bytes()).hexdigest(),
        "precision": options.precision,
        "licence": options.licence,
    }
