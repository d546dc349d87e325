"""A projector from the command line: trained beside its core, which it never changes; resumed; read with; refused."""

import hashlib
import json
import pydoc_data.topics
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from rich.console import Console

from h2q.config import ModelConfig
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig, TrainingConfig
from pipeline.prepare.prepare import prepare
from pipeline.projector.config import ProjectionConfig
from pipeline.runs.checkpoint import list_checkpoints, read_checkpoint
from pipeline.runs.find import corpus_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import run_config
from pipeline.storage.path import remove_whole
from pipeline.training import prologue

SMALL = [
    *("--local", "--tracking.no-enabled", "--model.dim", "16", "--model.depth", "1", "--model.heads", "2"),
    *("--model.factor", "4", "--model.ngrams", "2:16x4", "--model.seq-len", "16", "--training.lanes", "4"),
    *("--training.log-every", "2", "--training.evaluate-every", "4", "--training.save-every", "2"),
    *("--projector.last", "16", "--projector.next", "4", "--projector.rank", "8"),
]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of a model with a state."""
    from pipeline.training.driver import train

    storage = tmp_path_factory.mktemp("core")
    text = "".join(pydoc_data.topics.topics.values()).encode()
    for name, start, stop in (("train", 0, 24_000), ("valid", 24_000, 24_600), ("test", 24_600, 25_200)):
        (storage / f"wiki.{name}.raw").write_bytes(text[start:stop])
    sizes: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "fixed_rank": 2, "seq_len": 16}
    config = RunConfig(
        name="core",
        storage=str(storage / "runs"),
        local=True,
        model=ModelConfig(mixer="state", ngrams="2:16x4", dropout=0.0, **sizes),
        corpus=CorpusConfig(path=str(storage), prepared=str(storage / "prepared")),
        training=TrainingConfig(steps=4, lanes=4, evaluate_every=4, save_every=4),
        tracking=TrackingConfig(enabled=False),
    )
    with patch("pipeline.training.driver.draw"):
        return train(config, preset="laptop", command="a test", console=Console(file=StringIO())).folder


@pytest.fixture(scope="module")
def brief(core: RunFolder) -> Path:
    """Its projector `brief`, trained for one step and not judged."""
    from jobs.project import main

    with patch("pipeline.training.driver.draw"):
        assert not main([str(core.path), *SMALL, "--name", "brief", "--training.steps", "1", "--no-judge"])
    return core.path / "projectors" / "brief"


@pytest.fixture(autouse=True)
def short_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maps are trained for five steps, not for 150."""
    monkeypatch.setattr("pipeline.projector.lens.STEPS", 5)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.ray  # whole jobs
def test_a_projector_is_trained_judged_and_read_with_and_its_core_stays_as_it_is(
    core: RunFolder, call_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def spy(*args: Any, sha256: str | None = None, **options: Any) -> Any:
        asked.append(sha256)
        return prepare(*args, sha256=sha256, **options)

    monkeypatch.setattr(prologue, "prepare", spy)
    before = digests(core.checkpoints)
    done = call_job("project", tmp_path, str(core.path), *SMALL, "--training.steps", "4")
    assert done.returncode == 0, done.stderr
    assert asked == [corpus_of(core)[1]], "the corpus of its core is known: no hub is asked for it"
    assert "bits recovered by distance" in done.stdout and "the core is what it was" in done.stdout
    assert "the next byte, by a tuned lens" in done.stdout
    folder = core.path / "projectors" / "projector"
    judged = json.loads((folder / "judgement.json").read_text())
    assert len(judged["recovered"]["carried"]) == len(judged["exact"]) == 16
    assert len((folder / "horizon.csv").read_text().splitlines()) == 17
    assert (folder / "horizon.png").exists() and (folder / "lens.png").exists()

    text = tmp_path / "text.txt"
    text.write_bytes(b"A text that it reads.\nHere is more of it, \xc3\xa9.\n" * 3)
    done = call_job("project", tmp_path, str(core.path), "--read", str(text), "--at", "22")
    assert done.returncode == 0, done.stderr
    assert "state behind byte 22" in done.stdout and "     was   that it reads.⏎\n    says  " in done.stdout
    done = call_job("project", tmp_path, str(core.path), "--read", str(text), "--html", "page.html", "--moments", "3")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert page.count('"offset":') == 3 and "http" not in page.split("<script>")[0]
    assert digests(core.checkpoints) == before


def test_a_projector_that_is_resumed_is_the_one_that_was_not_interrupted(
    core: RunFolder, call_job: Callable[..., Any], tmp_path: Path
) -> None:
    options = [*SMALL, "--no-judge", "--training.schedule", "constant", "--training.warmup", "0"]
    options += ["--model.dropout", "0.2"]  # which no evaluation and no sample on the way may leave off
    done = call_job("project", tmp_path, str(core.path), "--name", "whole", *options, "--training.steps", "6")
    assert done.returncode == 0, done.stderr
    folder = core.path / "projectors"
    cut = RunFolder(shutil.copytree(folder / "whole", folder / "cut"))  # as a kill behind step 4 leaves it
    remove_whole(list_checkpoints(cut.checkpoints)[0], "commit.json")
    cut.summary_file.unlink()
    resumed = ["--name", "cut", "--resume", "--no-judge"]
    done = call_job("project", tmp_path, str(core.path), *resumed, "--training.steps", "6")
    assert done.returncode == 0, done.stderr
    assert "continuing at step 4" in done.stdout
    one, other = (read_checkpoint(list_checkpoints(folder / name / "checkpoints")[0]) for name in ("whole", "cut"))
    assert one.state["step"] == other.state["step"] == 6
    for name in one.model:
        assert one.model[name].equal(other.model[name]), name
    assert one.carried["carried"].equal(other.carried["carried"]) and one.carried["carried"].any()

    done = call_job("project", tmp_path, str(core.path), *resumed, "--projector.order", "in-order")
    assert done.returncode == 2
    assert done.stderr == (
        "error: resume needs the projector of the run: projector.order was newest-first, now in-order; start another "
        "--name\n"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--projector.last", "17"],
            "projector.last must be at most model.seq_len = 16, got 17: give --model.seq-len 17",
        ),
        (["--projector.rank", "0"], "projector.rank must be at least 1, got 0"),
        (["--at", "3"], "--at is about a file to read: give --read FILE too, got --at 3"),
        (["--html", "p.html"], "--html is about a file to read: give --read FILE too, got --html p.html"),
        (["--read", "x", "--html", "-"], "html must be a file, got - for standard output: give --html a name"),
        (["--read", "nowhere.txt"], "nowhere.txt: name another as --read"),
        (
            ["--read", __file__],
            "core has no projector named none: train it with python jobs/project.py core --name none",
        ),
        (["--accumulate", "2"], "accumulate is not for a projector: leave it out"),
        (["--graph", "yes"], "graph yes is not for a projector: leave it out"),
        (["--projector.nxt", "2"], "there is no option --projector.nxt; likely:"),
        (["--training.lanes", "2000"], "use more text"),
    ],
)
def test_a_mistake_is_one_line(
    core: RunFolder, call_job: Callable[..., Any], tmp_path: Path, options: list[str], told: str
) -> None:
    done = call_job("project", tmp_path, str(core.path), *SMALL, "--name", "none", *options)
    assert done.returncode == 2
    assert told in done.stderr and done.stderr.startswith("error: ")
    assert not (core.path / "projectors" / "none").exists()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--at", "0"], "at must be an offset in the text"),
        (["--html", "nofolder/p.html"], "nofolder/p.html: there is no such folder"),
        (["--html", "."], "it is a folder; name a file with --html"),
        (["--html", "p.html", "--at", "9"], "1 to 3, got 9"),
    ],
)
def test_what_is_asked_is_checked_before_anything_is_loaded(
    core: RunFolder, call_job: Callable[..., Any], tmp_path: Path, options: list[str], told: str
) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    with patch("pipeline.projector.load.load_projector", side_effect=AssertionError):
        done = call_job("project", tmp_path, str(core.path), "--name", "brief", "--read", "short", *options)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


def test_a_core_or_projector_without_a_checkpoint_is_told_how_to_train_on(
    core: RunFolder, brief: Path, call_job: Callable[..., Any], tmp_path: Path
) -> None:
    copy = RunFolder(shutil.copytree(core.path, tmp_path / "core", ignore=shutil.ignore_patterns("projectors")))
    shutil.rmtree(shutil.copytree(brief, copy.path / "projectors" / "brief") / "checkpoints")
    (tmp_path / "short").write_bytes(b"abc")
    done = call_job("project", tmp_path, str(copy.path), "--name", "brief", "--read", "short")
    assert (done.returncode, done.stderr.rpartition(": ")[2]) == (
        2,
        "python jobs/project.py core --resume --name brief\n",
    )
    shutil.rmtree(copy.checkpoints)
    done = call_job("project", tmp_path, str(copy.path), *SMALL)
    assert (done.returncode, done.stderr.rpartition(": ")[2]) == (2, "python jobs/train.py --resume --name core\n")


def test_the_run_is_the_latest_unless_it_is_named(call_job: Callable[..., Any], tmp_path: Path) -> None:
    assert ProjectionConfig().run == "latest"
    for run in ("", " "):
        done = call_job("project", tmp_path, run)
        told = f"error: RUN must be the name or folder of a run, latest, or best, got {run!r}\n"
        assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.usefixtures("brief")
def test_an_offset_beyond_the_file_is_refused(core: RunFolder, call_job: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    for at in ("0", "4"):
        done = call_job("project", tmp_path, str(core.path), "--name", "brief", "--read", "short", "--at", at)
        assert (done.returncode, done.stderr) == (
            2,
            f"error: at must be an offset in the text, with at least 1 byte before it: 1 to 3, got {at}\n",
        )


@pytest.mark.usefixtures("brief")
def test_the_middle_of_a_single_byte_is_behind_it(
    core: RunFolder, call_job: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "single").write_bytes(b"a")
    (tmp_path / "page.html").mkdir()  # nothing is written there
    done = call_job("project", tmp_path, str(core.path), "--name", "brief", "--read", "single")
    assert done.returncode == 0, done.stderr
    assert "state behind byte 1\n" in done.stdout


def test_a_projector_refuses_another_core_and_a_core_without_a_state(
    core: RunFolder, brief: Path, make_run: Callable[..., None], call_job: Callable[..., Any], tmp_path: Path
) -> None:
    make_run(tmp_path / "runs", "attends")
    done = call_job("project", tmp_path, "attends", *SMALL)
    assert done.returncode == 2
    assert "a projector reads a state, and the model of attends carries none (model.mixer attention)" in done.stderr

    note = shutil.copytree(brief, brief.with_name("bound")) / "config.json"
    stored = json.loads(note.read_text())
    stored["config"]["projector"]["sha256"] = 64 * "0"
    note.write_text(json.dumps(stored))
    before = digests(note.parent)
    for options in (["--resume", "--training.steps", "2"], ["--resume"], ["--read", __file__]):
        done = call_job("project", tmp_path, str(core.path), "--name", "bound", *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert "a projector reads the core that it was trained on, whose sha256 is 0000000000000000" in done.stderr
        assert done.stderr.count("\n") == 1 and digests(note.parent) == before


def test_a_projector_whose_core_is_gone_or_damaged_is_not_resumed(
    core: RunFolder, brief: Path, call_job: Callable[..., Any], tmp_path: Path
) -> None:
    copy = RunFolder(shutil.copytree(core.path, tmp_path / "core", ignore=shutil.ignore_patterns("projectors")))
    note = shutil.copytree(brief, copy.path / "projectors" / "brief")
    before = digests(note)
    model = list_checkpoints(copy.checkpoints)[0] / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    for told in ("the core of the projector is damaged", "the core of the projector is gone"):
        done = call_job("project", tmp_path, str(copy.path), "--name", "brief", "--resume", "--training.steps", "2")
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr and done.stderr.count("\n") == 1 and digests(note) == before
        shutil.rmtree(copy.checkpoints, ignore_errors=True)


@pytest.mark.parametrize(("name", "again"), [("projector", "--resume"), ("brief", "--name brief --resume")])
def test_who_stops_the_judging_is_told_how_it_goes_on(
    core: RunFolder, brief: Path, call_job: Callable[..., Any], tmp_path: Path, name: str, again: str
) -> None:
    copy = RunFolder(shutil.copytree(core.path, tmp_path / "core", ignore=shutil.ignore_patterns("projectors")))
    shutil.copytree(brief, copy.path / "projectors" / name)
    with patch("pipeline.projector.judged.judge", side_effect=KeyboardInterrupt):
        done = call_job("project", tmp_path, str(copy.path), "--name", name, "--resume")
    assert f"judging {name} of core\n" in done.stdout
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        130,
        f"error: interrupted while judging; the projector is trained, {again} judges it again",
    )


@pytest.mark.ray  # whole jobs; the streams themselves are scored in tests/pipeline/projector/test_score.py
def test_the_stream_of_a_core_without_a_state_is_a_control(
    core: RunFolder, make_run: Callable[..., None], call_job: Callable[..., Any], tmp_path: Path
) -> None:
    make_run(tmp_path / "runs", "attends")
    corpus = run_config(core).corpus
    options = [*SMALL, "--corpus.path", str(corpus.path), "--corpus.prepared", corpus.prepared]
    options += ["--projector.given", "stream", "--training.steps", "2"]
    done = call_job("project", tmp_path, "attends", *options)
    assert done.returncode == 0, done.stderr
    assert "the core is what it was" in done.stdout
    done = call_job("project", tmp_path, "attends", "--read", __file__)
    assert done.returncode == 0, done.stderr


def test_a_projector_is_no_model_of_text(brief: Path, call_job: Callable[..., Any], tmp_path: Path) -> None:
    done = call_job("generate", tmp_path, str(brief))
    assert (done.returncode, done.stderr) == (
        2,
        "error: this is a projector, no model of text: read with it by python jobs/project.py\n",
    )
