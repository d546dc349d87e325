"""Whatever a file or an option holds: one line and an exit code, or it works. No traceback, no hang, no signal.

500 cases by default, 100 of them in the quick loop, 5000 more with `-m slow`; a case is its number, which seeds all
that is drawn in it.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.model import ByteModel
from pipeline.cli import parse
from pipeline.comparison.compare import compare
from pipeline.comparison.compared_run import from_folder
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig
from pipeline.corpus.corpus import open_corpus
from pipeline.evaluation.config import EvaluationConfig
from pipeline.guard import guarded
from pipeline.prepare.prepare import prepare
from pipeline.runs.checkpoint import Checkpoint, newest_valid, to_host, write_checkpoint
from pipeline.runs.find import find_run
from pipeline.runs.folder import RunFolder, check_storage, claim_folder, find_folder
from pipeline.runs.journal import Journal, read_journal
from pipeline.runs.load import load_model, run_config
from pipeline.shown import printable
from pipeline.sweep.config import SweepConfig
from pipeline.training.optimizer import build_optimizer, restore_optimizer

CONFIG = RunConfig(
    name="run",
    local=True,
    model=ModelConfig(dim=16, depth=1, heads=1, factor=2, fixed_rank=1, seq_len=4, dropout=0.0),
    tracking=TrackingConfig(enabled=False),
)
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 10**40, 0.5, -1e300, float("nan"), float("inf"), "", "a", "7", "\0", "\ud800",
    "\x1b[2J", "é" * 300, "../../etc/passwd", [], [1], ["a"], [[]], {}, {"step": 1}, {"a": {"b": []}},
]  # fmt: skip
LINES = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"step": 1}',
    b"\xef\xbb\xbf{}",
    "\u2028".encode(),
    b"\xff",
    b"[" * 9999,
    b"9" * 9999,
]
WORDS = [
    "", "-", "--", "0", "-1", "1e999", "nan", "inf", "None", "true", "a=b", "\x1b[2J", "é" * 300, "s3://", "gs://",
    "file://", "://", "sqlite:////tmp", "http://u:p@ss@h", "/dev/null", "/etc/passwd/x", "~nobody/x", "\udcff",
    "9" * 40, "a..b:80", "[::1", ",", "model.dim=1,2", "*", "**", "?", "{", "%", "--resume",
]  # fmt: skip


def say_what_is(change: Callable[[random.Random], object], chance: random.Random, use: Callable[[], None]) -> str:
    """Make the change, use what was changed as a job does; gives what was said. Fails on a traceback."""
    change(chance)
    real, sys.stderr = sys.stderr, StringIO()
    try:
        code = guarded(lambda _: use())
        said = sys.stderr.getvalue()
    finally:
        sys.stderr = real
    assert code in (0, 2), said
    likely = ("  --", "there is no option --")  # what a misspelt option may mean stands one to a line
    lines = [line for line in said.splitlines() if not line.startswith(likely)]
    assert (code == 0) == (said == "") and len(lines) <= 1 and said.endswith("\n") == (code != 0), said
    assert said == printable(said)
    return said


def damaged(value: Any, chance: random.Random) -> Any:
    """The JSON value with one of its fields, at any depth, deleted, renamed, added or replaced."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.15:
        return chance.choice(VALUES)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    key: Any = chance.choice(list(copy)) if isinstance(copy, dict) else chance.randrange(len(copy))
    what = chance.random()
    if what < 0.2:
        del copy[key]
    elif what < 0.3 and isinstance(copy, dict):
        copy[chance.choice(["", "step", "new", "\0"])] = chance.choice(VALUES)
    else:
        copy[key] = damaged(copy[key], chance)
    return copy


def spoil(file: Path, chance: random.Random) -> None:
    """The file with other bytes, another value, or as something that is no file."""
    content, what = file.read_bytes(), chance.random()
    if what < 0.5 and file.suffix == ".json":
        with suppress(ValueError):
            file.write_text(json.dumps(damaged(json.loads(content), chance)))
    elif what < 0.6:
        lines = content.split(b"\n")
        lines[chance.randrange(len(lines))] = chance.choice(LINES)
        file.write_bytes(b"\n".join(lines))
    elif what < 0.8:
        spoiled = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        file.write_bytes(spoiled)
    elif what < 0.9:
        file.write_bytes(content[: chance.randrange(len(content))])
    else:
        file.unlink()
        chance.choice([os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.name), lambda path: None])(file)


def checkpoint(step: int, chance: random.Random | None = None) -> Checkpoint:
    """A checkpoint; with `chance` one of whose tensors, or whose state, is not what it must be, properly committed."""
    torch.manual_seed(step)
    model = ByteModel(CONFIG.model)
    parameters = dict(model.named_parameters())
    moments = {f"{kind}/{name}": torch.zeros_like(parameters[name]) for kind in KINDS for name in parameters}
    tensors = {
        "model": to_host(model.state_dict()),
        "optimizer": moments | {f"step/{name}": torch.tensor(1.0) for name in parameters},
    }
    growth = {"step": step, "grown_at": [], "losses": [3.0]}
    state = {"step": step, "config": CONFIG.to_dict(), "losses": [], "best": None, "growth": growth, "scaler": {}}
    if chance:
        kind = chance.choice(["model", "optimizer", "optimizer", "state"])
        if kind == "state":
            state = damaged({name: value for name, value in state.items() if name != "step"}, chance)
            state = state | {"step": step} if isinstance(state, dict) else {"step": step}
        else:
            name = chance.choice(list(tensors[kind]))
            spoiled = chance.choice(SPOILED)(tensors[kind].pop(name))
            if spoiled is not None:
                tensors[kind][chance.choice([name, name, name, "unknown"])] = spoiled
    return Checkpoint(model=tensors["model"], optimizer=tensors["optimizer"], state=state)


KINDS = ("exp_avg", "exp_avg_sq")
SPOILED: list[Callable[[torch.Tensor], torch.Tensor | None]] = [
    lambda tensor: None,
    lambda tensor: torch.zeros(0, dtype=tensor.dtype),
    lambda tensor: torch.zeros(1, dtype=tensor.dtype),
    lambda tensor: torch.zeros(*tensor.shape, 2, dtype=tensor.dtype),
    lambda tensor: tensor.double(),
    lambda tensor: tensor.to(torch.int32),
    lambda tensor: tensor.bfloat16(),
    lambda tensor: torch.full_like(tensor, float("nan") if tensor.is_floating_point() else -1),
    lambda tensor: torch.full_like(tensor, float("inf") if tensor.is_floating_point() else 10**6),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with two runs, and a prepared corpus, all in order."""
    place = tmp_path_factory.mktemp("whole")
    (place / "runs").mkdir()
    for name in ("run", "other"):
        folder = claim_folder(place / "runs", replace(CONFIG, name=name), "laptop", "python jobs/train.py")
        for step in (1, 2):
            write_checkpoint(folder.checkpoints, checkpoint(step))
        with Journal(folder.journal, first_step=0) as journal:
            for step in range(3):
                journal.write({"step": step, "time": 1.0 + step, "train/bpb": 3.0, "validation/bpb": 4.0 - step})
        folder.note_mlflow_run("sqlite:///mlflow.db", "0" * 32)
        folder.write_summary({"status": "finished", "steps": 2, "parameters": 9, "bytes_seen": 9, "seconds": 1.0})
    (place / "T.txt").write_text("A sentence of a text. " * 400)
    prepare(CorpusConfig(path=str(place / "T.txt"), prepared=str(place / "data")), local=True)
    return place


def take_a_step(model: ByteModel, found: Checkpoint) -> None:
    """What reads and writes the moments as if they had the shapes of their parameters."""
    optimizer = build_optimizer(model, CONFIG.training)
    restore_optimizer(optimizer, {value: name for name, value in model.named_parameters()}, found.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def use_run(place: Path, chance: random.Random) -> None:
    """As generate, compare and --resume do: find the run, load it, take a step of its optimizer."""
    reference = chance.choice(["run", "best", "latest", str(place / "runs" / "run")])
    folder = find_run(reference, storage=str(place / "runs"))
    model, _ = load_model(folder)
    run_config(folder)
    found = newest_valid(folder.checkpoints)
    assert found is not None
    take_a_step(model, found[0])
    compare([from_folder(folder), from_folder(RunFolder(place / "runs" / "other"))])
    with Journal(folder.journal, first_step=2) as journal:
        journal.write({"step": 2, "time": 1.0})


def use_corpus(place: Path) -> None:
    corpus = prepare(CorpusConfig(path=str(place / "T.txt"), prepared=str(place / "data")), local=True)
    for split in open_corpus(corpus.folder).splits.values():
        split.read(0, split.bytes)


def case_of_files(whole: Path, place: Path, chance: random.Random) -> None:
    """One file of a run or of a corpus is spoiled."""
    shutil.copytree(whole, place)
    of_run = chance.random() < 0.7
    top = place / ("runs/run" if of_run else "data")
    files = [file for file in sorted(top.rglob("*")) if file.is_file() and file.name != ".lock"]
    small = [file for file in files if file.suffix in (".json", ".jsonl")]
    file = chance.choice(small if chance.random() < 0.8 else files)
    say_what_is(
        lambda chance: spoil(file, chance), chance, lambda: use_run(place, chance) if of_run else use_corpus(place)
    )


def case_of_tensors(whole: Path, place: Path, chance: random.Random) -> None:
    """The commit of a checkpoint fits, what it vouches for does not: the one before is used."""
    folder = RunFolder(place)
    shutil.copytree(whole / "runs" / "run", place)
    write_checkpoint(folder.checkpoints, checkpoint(3, chance))

    def use() -> None:
        found = newest_valid(folder.checkpoints)
        assert found is not None
        model = ByteModel(CONFIG.model)
        model.load_state_dict(found[0].model)
        take_a_step(model, found[0])

    assert say_what_is(lambda _: None, chance, use) == ""


def case_of_options(whole: Path, place: Path, chance: random.Random) -> None:
    """A command line of any words: parsed, and looked at as far as a job does before it starts anything."""
    config, default = chance.choice(
        [(RunConfig, CONFIG), (EvaluationConfig, EvaluationConfig()), (SweepConfig, SweepConfig())]
    )
    names = OPTIONS[config.__name__]
    args = [word for _ in range(chance.randint(1, 3)) for word in (chance.choice(names), chance.choice(WORDS))]
    args = [arg for arg in args if arg not in ("-h", "--help")]

    def use() -> None:
        given: Any = parse(config, args, default=default, prog="job")
        if isinstance(given, RunConfig):
            with suppress(FileNotFoundError):
                os.chdir(place)
            if "://" not in given.storage and not given.storage.startswith(("/", "~")):
                storage = check_storage(given.storage)
                find_folder(storage, given.name) if given.resume else claim_folder(storage, given, "laptop", "")

    place.mkdir(exist_ok=True)
    say_what_is(lambda _: None, chance, use)


def _names(config: Any, prefix: str = "--") -> list[str]:
    named = []
    for name, value in vars(config).items():
        inside = hasattr(value, "__dataclass_fields__")
        dotted = prefix if name == "run" else f"{prefix}{name.replace('_', '-')}."
        named += _names(value, dotted) if inside else [f"{prefix}{name.replace('_', '-')}"]
    return named


OPTIONS = {type(config).__name__: _names(config) for config in (CONFIG, EvaluationConfig(), SweepConfig())}
CASES = (case_of_files, case_of_files, case_of_files, case_of_tensors, case_of_options)


def run_cases(numbers: range, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import shown

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["job"])
    monkeypatch.setattr(shown.logging.getLogger("h2q"), "disabled", True)
    for number in numbers:
        chance = random.Random(number)
        place = tmp_path / f"{number}"
        try:
            CASES[number % len(CASES)](whole, place, chance)
        except BaseException:
            print(f"case {number}: {CASES[number % len(CASES)].__name__}")
            raise
        os.chdir(tmp_path)
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("cases", [range(25), pytest.param(range(25, 500), marks=pytest.mark.ray)], ids=str)
def test_500_cases(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: range) -> None:
    run_cases(cases, whole, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("thousand", range(5))
def test_5000_more(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thousand: int) -> None:
    run_cases(range(500 + 1000 * thousand, 1500 + 1000 * thousand), whole, tmp_path, monkeypatch)


def test_a_journal_of_any_bytes_gives_its_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for number, line in enumerate(LINES):
        path.write_bytes(b'{"step": 0, "time": 1.0}\n' + line + b'\n{"step": 2, "time": 1.0, "a": NaN}\n')
        with suppress(UserError):
            assert [record["step"] for record in read_journal(path)] == [0, 2], (number, line)
