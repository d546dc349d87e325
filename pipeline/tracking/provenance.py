"""Where a run comes from and what decides its result: commit, library versions and options, as MLflow's tags and
parameters."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.runs.folder import Change

FOLDER_TAG = "run_folder"
"""Tag of an MLflow run: where its folder is."""
DESCRIPTION_TAG = "mlflow.note.content"
"""Tag of an MLflow run: its description, Markdown."""

LIBRARIES = ("torch", "ray", "mlflow", "datasets", "pyarrow", "safetensors")
OPTION_TAG = "option/"
"""Before the name of an option that a resume has changed, in the name of a tag."""
_FROM = " from step "
_ELSEWHERE = ("name", "storage", "resume", "verbose", "profile", "tracking.", "corpus.prepared", "corpus.cache")


def run_tags(corpus: str, corpus_sha256: str, command: str, preset: str, job: str = "jobs/train.py") -> dict[str, str]:
    """Commit, corpus, library versions; the command line of the job is the description."""
    commit = git_commit()
    return {
        DESCRIPTION_TAG: f"`{command}`\n\nCorpus: {corpus}",
        "mlflow.source.name": job,
        "mlflow.source.type": "JOB",
        "preset": preset,
        "corpus": corpus,
        "corpus_sha256": corpus_sha256,
        **({"mlflow.source.git.commit": commit} if commit else {}),
        **{f"version/{name}": number for name, number in versions().items()},
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what a run computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def git_commit() -> str | None:
    """The commit of this source tree, None outside a checkout, or where git is not installed."""
    command, here = ["git", "rev-parse", "HEAD"], Path(__file__).parent
    try:
        git = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return git.stdout.strip() or None


def parameters(config: dict[str, Any]) -> dict[str, Any]:
    """The options that decide what a run computes, by their path; not where it lies or how it is watched."""
    return {name: value for name, value in flatten(config).items() if not name.startswith(_ELSEWHERE)}


def option_tags(history: list[Change]) -> dict[str, str]:
    """The options that resumes have changed, as tags: `80 from step 40; 40 from step 0`. `history`: as RunFolder's."""
    tags: dict[str, str] = {}
    for change in history:
        for name, option in change["options"].items():
            key = OPTION_TAG + name
            before = tags.get(key, f"{option['was']}{_FROM}0")
            tags[key] = f"{option['now']}{_FROM}{change['step']}; {before}"
    return tags


def current_options(tags: dict[str, str]) -> dict[str, str]:
    """Name → value, as text, of the options that resumes have changed, from the tags of a run."""
    return {
        name.removeprefix(OPTION_TAG): values.partition(_FROM)[0]
        for name, values in tags.items()
        if name.startswith(OPTION_TAG)
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"dim": 64}} → {"model.dim": 64}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
