"""An evaluation before it starts: model and data found and checked, and what the options leave open filled in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from h2q.errors import require
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.shards import histogram
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.kinds import KindOf, kinds_in
from pipeline.evaluation.learner import LANES, Rate, learning_rates, updates_of
from pipeline.evaluation.machine import Machine, find_machine
from pipeline.evaluation.progress import EvaluationProgress
from pipeline.evaluation.scoring import check_alphabet, check_window
from pipeline.evaluation.subject import Subject, find_subject
from pipeline.evaluation.windows import Stream, check_lanes, check_stride
from pipeline.prepare.prepare import prepare
from pipeline.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How the data is cut into windows, see `windows`."""

    window: int
    stride: int
    lanes: int


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that an evaluation needs."""

    options: EvaluationConfig
    subject: Subject
    windowing: Windowing
    machine: Machine
    data: Stream
    byte_counts: np.ndarray
    """(256,) int64: how often each byte value occurs in the data."""
    kinds: list[KindOf]
    """The kinds of documents in marked data, each of which is scored by itself."""

    @property
    def streams(self) -> list[Stream]:
        """What is scored by itself: each kind of marked data, or all of it."""
        return [of.split for of in self.kinds] or [self.data]

    @property
    def rate(self) -> Rate:
        """Prequential: the learning rate of a step."""
        return learning_rates(self.subject.config, self.subject.checkpoint, self.options.learning_rate)

    @property
    def updates(self) -> int:
        """Prequential: optimizer steps for a chunk."""
        return updates_of(self.subject.checkpoint, self.options.updates)

    @property
    def label(self) -> str:
        """What tells this evaluation of a run from others: the same again has the same label."""
        options, windowing = self.options, self.windowing
        data = f"{self.data.name}-{self.data.sha256[:8]}" if options.data else options.split
        parts = [data, str(options.mode)]
        parts += [] if options.mode == "carried" else [f"window-{windowing.window}", f"stride-{windowing.stride}"]
        parts += [f"lanes-{windowing.lanes}"] if windowing.lanes > 1 else []
        parts += ["untrained"] if options.fresh or options.preset else []
        parts += [f"updates-{options.updates}"] if options.updates else []
        parts += [f"rate-{options.learning_rate:g}"] if options.learning_rate else []
        parts += [options.precision] if options.precision else []
        return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))


def set_up(options: EvaluationConfig, folder: RunFolder | None, progress: EvaluationProgress) -> Setup:
    """Find and check everything. Raises: UserError for whatever the user can mend."""
    progress.stage("loading the model")
    subject = find_subject(options, folder)
    options = find_mode(options, subject)
    windowing = find_windowing(options, subject)
    machine = find_machine(options, subject.config.precision)
    progress.stage("reading the data")
    data = find_data(options, subject, progress)
    counts = sum((histogram(block) for block in data.stream()), np.zeros(256, np.int64))
    check_alphabet(counts, subject.config.model.vocab, data.name)
    require(len(data) >= 2, f"{data.name} must hold at least 2 bytes to be scored, found {len(data)}: use more text")
    setup = Setup(
        options=options,
        subject=subject,
        windowing=windowing,
        machine=machine,
        data=data,
        byte_counts=counts,
        kinds=kinds_in(data),
    )
    if options.mode == "carried":
        for stream in setup.streams:
            check_lanes(len(stream), windowing.lanes)
    for line in remarks(setup):
        progress.say(line)
    return setup


def remarks(setup: Setup) -> Iterator[str]:
    """What to know of a figure of marked documents, or of a model of them."""
    if setup.options.data and setup.subject.config.corpus.marked:
        yield f"{setup.data.name} is scored as it is: no marker says what it is, as before a document of the corpus"
    if setup.options.mode == "prequential" and setup.kinds:
        yield "prequential is one code of all kinds together: each by itself is what --mode carried or sliding gives"


def find_mode(options: EvaluationConfig, subject: Subject) -> EvaluationConfig:
    """The options with a mode. Raises: UserError for one that the model cannot be scored in."""
    config = subject.config.model
    require(
        options.mode != "carried" or config.carries,
        f"there is no state to carry: model.mixer of {subject.name} is {config.mixer}; use --mode sliding",
    )
    windows = options.window is not None or options.stride is not None
    return replace(options, mode=options.mode or ("carried" if config.carries and not windows else "sliding"))


def find_windowing(options: EvaluationConfig, subject: Subject) -> Windowing:
    """Raises: UserError for a window longer than the model's positions, or a stride that does not go with it."""
    window = options.window or subject.config.model.seq_len
    check_window(window, subject.model)
    stride = options.stride or (max(1, window // 2) if options.mode == "sliding" else window)
    check_stride(stride, window)
    require(
        options.mode != "prequential" or stride == window or not subject.config.model.carries,
        f"a state is carried from chunk to chunk: stride must be the window's {window} bytes, got {stride}",
    )
    alone = options.mode == "sliding" or (options.mode == "carried" and options.lanes is None)
    new = options.mode == "prequential" and subject.checkpoint is None
    lanes = 1 if alone else options.lanes or (LANES if new else subject.config.training.lanes)
    return Windowing(window=window, stride=stride, lanes=lanes)


def find_data(options: EvaluationConfig, subject: Subject, progress: EvaluationProgress) -> Stream:
    """The file, or the split of the corpus that the run was trained on.

    Raises: UserError if it is not there, empty, or another corpus than the run's.
    """
    if options.data is not None:
        return RawFile(options.data)
    sha256 = subject.checkpoint.state.get("corpus_sha256") if subject.checkpoint else None
    corpus = corpus_of_run(subject.config, sha256, subject.name, progress)
    return corpus.splits[options.split]


def corpus_of_run(config: RunConfig, sha256: str | None, name: str, progress: EvaluationProgress) -> Corpus:
    """The corpus that a run was trained on, prepared; `sha256`: as its checkpoint has it. Raises: UserError if it is
    another one now, or as `prepare` does."""
    corpus = prepare(config.corpus, local=True, on_event=progress.preparing, sha256=sha256)
    require(
        sha256 in (None, corpus.sha256),
        f"the corpus of {name} is another now: its sha256 was {(sha256 or '')[:16]}, {corpus.name} has "
        f"{corpus.sha256[:16]}; give --data FILE",
    )
    return corpus
