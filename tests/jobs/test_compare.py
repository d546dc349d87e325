"""The command line of comparing, as its user types it."""

import json
import resource
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], str]) -> Path:
    """A folder in which two runs were trained by the training job, `first` and `second`."""
    path = tmp_path_factory.mktemp("compare")
    empty_store(path)
    (path / "text.txt").write_text(
        "".join(f"Sentence {n} of a text about nothing in particular.\n" for n in range(300))
    )
    tiny = (
        "--local --corpus.path text.txt --model.dim 32 --model.depth 2 --model.heads 2 --model.factor 4 "
        "--model.fixed-rank 2 --model.seq-len 16 --training.lanes 4 --training.steps 4 --training.log-every 2 "
        "--training.evaluate-every 2 --training.save-every 4"
    )
    train = runpy.run_path(str(ROOT / "jobs" / "train.py"))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("pipeline.training.driver.draw", lambda *run, **what: None)  # takes longer than the run
        for seed, name in enumerate(("first", "second")):
            assert not train([*tiny.split(), "--name", name, "--training.seed", str(seed)])
    return path


def test_runs_side_by_side(folder: Path, call_job: Callable) -> None:
    done = call_job(
        "compare", folder, "first", "runs/second", "--html", "page.html", "--plot", "curves.png", pictures=True
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for word in ("first", "second", "seed", "validation", "bpb", "bytes/s"):
        assert word in done.stdout
    assert "model.dim" not in done.stdout, "what is the same in all runs is left out"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (folder / "page.html").read_text()


def test_the_newest_runs_at_the_width_of_the_terminal(
    folder: Path, call_job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    done = call_job("compare", folder, "--last", "2")
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("curves:")[0].splitlines()
    assert max(map(len, table)) <= 60 and {"first", "second"} <= {line.split()[0] for line in table if line.strip()}


def test_an_experiment_as_json(folder: Path, call_job: Callable) -> None:
    done = call_job("compare", folder, "--experiment", "h2q", "--json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told = json.loads(done.stdout)
    assert sorted(run["name"] for run in told["runs"]) == ["first", "second"]
    assert told["differences"] == {"training.seed": [run["fields"]["training.seed"] for run in told["runs"]]}
    for run in told["runs"]:
        summary = json.loads((folder / "runs" / run["name"] / "summary.json").read_text())
        assert run["results"]["test bpb"] == summary["test_bpb"]


def test_a_page_that_does_not_fit_is_named_and_not_half_written(folder: Path, call_job: Callable) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        done = call_job("compare", folder, "first", "second", "--html", "large.html")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.returncode == 2 and "cannot write large.html: " in done.stderr and "too large" in done.stderr
    assert done.stderr.count("\n") == 1 and not (folder / "large.html").exists()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ([], "name runs"),
        (["frist"], "no run is called 'frist'"),
        (["first", "--experiment", "h2q"], "not both"),
        (["--experiment", "q2h"], "no experiment is called 'q2h'; nearest: h2q"),
        (["first", "--html", "nowhere/page.html"], "the folder of nowhere/page.html does not exist"),
        (["--experiment", "h2q", "--last", "0"], "last must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line(folder: Path, options: list[str], rule: str, call_job: Callable) -> None:
    done = call_job("compare", folder, *options)
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(said) == 1 and said[0].startswith("error: ") and rule in said[0], done.stderr
