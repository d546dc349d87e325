"""Whatever a README tells its reader to type works: commands parse or run, Python runs, recipes do what they say."""

import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import PRESETS
from pipeline.mix import read_mix

ROOT = Path(__file__).parents[1]
READMES = sorted([*ROOT.glob("*.md"), *(ROOT / ".github").glob("*.md"), *ROOT.glob("h2q/**/*.md")]) + sorted(
    ROOT.glob("pipeline/**/*.md")
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
JOBS = {path.stem for path in (ROOT / "jobs").glob("*.py")}
SIZES = "--model.dim 32 --model.depth 2 --model.heads 2 --model.factor 4 --model.fixed-rank 2 --model.seq-len 16"
STEPS = "--training.lanes 4 --training.steps 4 --training.evaluate-every 4 --training.save-every 4"
TINY = f"{SIZES} {STEPS} --local".split()


@dataclass(frozen=True)
class Command:
    """One command of a README, its words as a shell reads them."""

    readme: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.readme.relative_to(ROOT)}: {shlex.join(self.words)}"


def blocks(readme: Path, *languages: str) -> list[str]:
    """The fenced blocks in one of the languages."""
    return [body for language, body in FENCE.findall(readme.read_text()) if language in languages]


def commands(readme: Path) -> Iterator[Command]:
    """What stands in blocks of shell, and `python jobs/…` in the text."""
    for block in blocks(readme, "sh", "bash", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>()")
            lexer.whitespace_split, words = True, []
            for word in [*lexer, ";"]:
                if set(word) <= set("&|;()"):
                    if words:
                        yield Command(readme, tuple(words))
                    words = []
                else:
                    words.append(word)
    for inline in re.findall(r"`(python jobs/[^`]+)`", FENCE.sub("", readme.read_text())):
        yield Command(readme, tuple(word for word in shlex.split(inline) if not word.startswith("…")))


COMMANDS = list(dict.fromkeys(command for readme in READMES for command in commands(readme)))


def job_of(words: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """The job that the words start and its arguments, also behind the `--` of `ray job submit`; None: no job."""
    words = list(words[words.index("--") + 1 :]) if "--" in words else list(words)
    script = words[1] if len(words) > 1 and Path(words[0]).name == "python" else ""
    if not script.startswith("jobs/"):
        return None
    name = Path(script).stem
    assert name in JOBS, f"there is no job {script}"
    return name, tuple(words[2:])


OF_JOBS = [command for command in COMMANDS if job_of(command.words)]
OF_JOBS = list({job_of(command.words): command for command in reversed(OF_JOBS)}.values())[::-1]
PASTED = "mine"
"""The preset of a recipe: there once the recipe is pasted."""


def main_of(job: str) -> Callable[[Sequence[str]], int | None]:
    """The `main` of a job, loaded anew: it takes what `pipeline.cli` holds now."""
    spec = importlib.util.spec_from_file_location(f"job_{job}", ROOT / "jobs" / f"{job}.py")
    assert spec and spec.loader
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # tyro reads the source of its dataclasses
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], str]) -> Path:
    """A folder as its user has it: a run, a corpus, a file."""
    folder = tmp_path_factory.mktemp("place")
    empty_store(folder)
    text = "".join(f"Sentence {number} of a text about nothing in particular.\n" for number in range(600))
    for name in ("text.txt", "FILE"):
        (folder / name).write_text(text)
    (folder / "FOLDER").mkdir()
    (folder / "FOLDER" / "text.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("pipeline.training.driver.draw", lambda *run, **what: None)  # takes longer than the run
        assert not main_of("train")([*TINY, "--corpus.path", "text.txt", "--name", "RUN"])
    shutil.copytree(folder / "runs" / "RUN", folder / "runs" / "NAME")
    return folder


class Parsed(Exception):
    """The command line is right; the job went no further."""


def test_there_are_commands_to_check() -> None:
    assert {job_of(command.words)[0] for command in OF_JOBS} == JOBS  # type: ignore[index]
    assert any("submit" in command.words for command in OF_JOBS)


@pytest.mark.parametrize("command", [command for command in OF_JOBS if PASTED not in command.words], ids=str)
def test_a_job_takes_its_options(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the job's own parser, so that an option that is misspelt, or breaks a rule, fails."""
    import pipeline.cli

    monkeypatch.chdir(place)

    real = pipeline.cli.parse

    def parse(config: Any, args: Sequence[str], **named: Any) -> None:
        parsed = real(config, args, **named)
        if space := getattr(getattr(parsed, "search", None), "space", None):
            from pipeline.sweep.space import parse_space

            parse_space(space)
        raise Parsed

    monkeypatch.setattr(pipeline.cli, "parse", parse)
    if "--resume" in command.words:  # the run that it names is not here
        monkeypatch.setattr(pipeline.cli, "parse_known", lambda config, args: config())
    name, args = job_of(command.words)  # type: ignore[misc]
    with pytest.raises(Parsed):
        main_of(name)(args)


@pytest.mark.parametrize("job", sorted(JOBS))
def test_help_of_every_job(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = main_of(job)
    try:
        main(["--help"])
    except SystemExit as stop:
        assert stop.code == 0
    assert f"jobs/{job}.py" in capsys.readouterr().out


TOY = {
    "train": [*TINY, "--tracking.no-enabled", "--corpus.shard-bytes", "9999"],
    "prepare": ["--local", "--corpus.shard-bytes", "9999"],
    "evaluate": ["--local", "--tracking.no-enabled", "--window", "8", "--stride", "8"],
    "generate": ["--length", "8"],
    "compare": [],
}
"""What makes a job of a README one of seconds, in a folder with a toy run."""

HEAVY = {"--workers", "--address", "--wait", "--storage", "--resume", "--tracking.uri", "--tracking.register"}
HEAVY |= {"--corpus.hub", "--mode", "--profile", "--kind", PASTED}
RUNNABLE = [
    command
    for command in OF_JOBS
    if "submit" not in command.words and job_of(command.words)[0] in TOY and not HEAVY & set(command.words)  # type: ignore[index]
    # What the log measured is not here.
    if not any("=wiki.valid.raw@" in word for word in command.words)
]


@pytest.mark.ray
@pytest.mark.parametrize("command", RUNNABLE, ids=str)
def test_a_job_of_seconds_runs(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The ")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("pipeline.training.driver.draw", lambda *run, **what: None)
    name, args = job_of(command.words)  # type: ignore[misc]
    presets = [word for word in args[:1] if not word.startswith("-") and name == "train"]
    options = args[len(presets) :]
    toy = TOY[name]
    mix = args[args.index("--corpus.mix") + 1] if "--corpus.mix" in args else ""
    mix = mix or next((PRESETS[preset].corpus.mix for preset in presets), "")
    if mix and name == "train":
        lanes = str(sum(part.lanes for part in read_mix(mix)))
        toy = [*toy, "--training.lanes", lanes, "--training.evaluate-bytes", "3000"]
    elif not mix and "--corpus.path" not in args and name in ("train", "prepare"):
        toy = [*toy, "--corpus.path", "text.txt"]
    if name == "evaluate" and "--data" in args:
        toy = [*toy, "--no-compressors"]
    if name == "train" and "qrlm" in presets:
        toy = [*toy, "--model.max-rank", "3", "--accumulate", "2", "--training.log-every", "1"]
    assert not main_of(name)([*presets, *options, *toy])


def test_other_programs_take_their_options() -> None:
    """Ray's and MLflow's commands through their own parsers; pip, git and the like are known by name."""
    import click
    from mlflow.cli import cli as mlflow
    from ray.dashboard.modules.job.cli import job_cli_group
    from ray.scripts.scripts import cli as ray

    ray.add_command(job_cli_group, "job")
    known = {"pip", "ruff", "pyright", "pre-commit", "cat", "export", "curl", "python3", "umask", "chmod"}
    for command in COMMANDS:
        words = list(command.words)
        program = Path(words[0]).name
        if job_of(words) and "submit" not in words:
            continue
        if program in ("ray", "mlflow"):
            group: Any = ray if program == "ray" else mlflow
            words = words[1:]
            while isinstance(group, click.Group):
                assert words[0] in group.commands, f"{command}: no command {words[0]}"
                group, words = group.commands[words[0]], words[1:]
            group.make_context(program, words)
        elif program == "pytest":
            assert_pytest_takes(words[1:])
        elif program == "curl":
            json.loads(words[words.index("-d") + 1])
        else:
            assert program in known, f"{command}: no way to check it: teach this test"


def assert_pytest_takes(words: list[str]) -> None:
    import tomllib

    for flag, value in itertools.pairwise(words):
        if flag == "-m":
            told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
            assert set(re.findall(r"\w+", value)) - {"not", "and", "or"} <= {line.partition(":")[0] for line in told}
    for word in words:
        assert word.startswith("-") or " " in word or (ROOT / word).exists(), f"no tests at {word}"


def recipes() -> dict[str, tuple[bool, str]]:
    """Where a block of the README goes, as its first line says: path → (a new file?, the code)."""
    found = {}
    for block in blocks(ROOT / "README.md", "python"):
        if told := re.match(r"# (a new file, |at the end of )(\S+):", block):
            found[told[2]] = told[1].startswith("a new"), block
    return found


@pytest.mark.ray
@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_a_readme_runs(readme: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a file in their order, in one namespace, in a folder with a run and a text."""
    monkeypatch.chdir(place)
    space: dict[str, Any] = {}
    for number, block in enumerate(blocks(readme, "python")):
        if block not in [code for _, code in recipes().values()]:
            exec(compile(block, f"{readme.relative_to(ROOT)}, block {number}", "exec"), space)
    if readme == ROOT / "README.md":
        assert space["logits"].shape == (1, 4, 256)
        assert space["summary"].steps == 20 and space["folder"].read("summary.json")


@pytest.mark.ray
def test_the_recipes_work_when_pasted(tmp_path: Path) -> None:
    """A preset and a weight family of one's own, in a copy of the project: trained, found again, resumed."""
    for name in ("h2q", "pipeline", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    found = recipes()
    assert len(found) == 3
    for path, (new, code) in found.items():
        assert (tmp_path / path).exists() != new, path
        with (tmp_path / path).open("a") as file:
            file.write(f"\n\n{code}")
    (tmp_path / "text.txt").write_text("A text about nothing in particular.\n" * 600)
    [told] = [command for command in OF_JOBS if PASTED in command.words]
    options = [*TINY, "--corpus.path", "text.txt", "--tracking.no-enabled"]
    for more in ([], ["--resume", "--training.steps", "5"]):
        line = [sys.executable, *told.words[1:], *(options if not more else []), *more]
        done = subprocess.run(
            line,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
    [summary] = tmp_path.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["steps"] == 5


def test_ci_runs_the_test_command_of_the_readme_word_for_word() -> None:
    start = blocks(ROOT / "README.md", "sh")[:2]
    assert all(block.count("\n") == 1 for block in start)
    assert start[1].strip() in (line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines())
    assert "- run: .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(readme: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", readme.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (readme.parent / path).resolve() if path else readme
        assert target.exists(), f"{readme.name}: {link}"
        if anchor:
            assert anchor in {slug(line) for line in target.read_text().splitlines() if line.startswith("#")}, link
    for path in re.findall(r"`((?:tests|pipeline|h2q|jobs)/[\w./]+\.\w+)`", readme.read_text()):
        assert (ROOT / path).exists(), f"{readme.name}: {path}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = heading.lstrip("#").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def test_every_room_that_is_entered_has_a_readme() -> None:
    rooms = ("h2q", "pipeline", *(f"pipeline/{room}" for room in ("prepare", "training", "evaluation", "sweep")))
    for room in (*rooms, "pipeline/cluster", "pipeline/benchmark"):
        assert (ROOT / room / "README.md").exists(), room


def test_constraints_are_of_versions_that_the_project_takes() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pairs}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for told in (*project["dependencies"], *project["optional-dependencies"]["test"]):
        requirement = Requirement(told)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), told
