"""Options that are younger than some runs: older files are completed, and what was deleted is damage."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2q.config import BoundProjector, ModelConfig
from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.runs.checkpoint import config_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import run_config
from pipeline.runs.older import ADDED, FORMAT
from pipeline.storage.uri import DamagedFile

OLDEST = json.loads((Path(__file__).parent / "options_of_format_0.json").read_text())
"""Every option that there was before the first of `ADDED`."""
Options = dict[str, Any]
ADDED_NAMES = [tuple(name.split(".")) for name, _ in ADDED]


OF_PROJECTORS = ("projector", "given")
"""Younger options that only the run of a projector has."""


def names_of(options: Options) -> list[tuple[str, ...]]:
    """`[("name",), ("model", "dim"), …]`."""
    flat = [
        [(part, name) for name in value] if isinstance(value, dict) else [(part,)] for part, value in options.items()
    ]
    return [name for names in flat for name in names]


def without(options: Options, *names: tuple[str, ...]) -> Options:
    copy = json.loads(json.dumps(options))
    for *parts, last in names:
        holder = copy.get(parts[0]) if parts else copy
        if holder is not None:  # a run that is no projector's
            del holder[last]
    return copy


@pytest.fixture
def noted(tmp_path: Path) -> Callable[..., RunFolder]:
    def note(config: Options, **made_in: int) -> RunFolder:
        folder = RunFolder(tmp_path)
        folder.write("config.json", {"preset": "laptop", "command": "", "config": config, **made_in})
        return folder

    return note


def test_whoever_adds_an_option_says_what_runs_did_before_it() -> None:
    added = [name for name in ADDED_NAMES if name != OF_PROJECTORS]
    assert sorted(names_of(OLDEST) + added) == sorted(names_of(RunConfig().to_dict())), "pipeline/runs/older.py"


def test_a_run_of_the_oldest_format_does_what_it_did(noted: Callable[..., RunFolder]) -> None:
    found = run_config(noted(OLDEST))
    assert found == config_of({"config": OLDEST}) == RunConfig.from_dict(found.to_dict())
    assert without(found.to_dict(), *ADDED_NAMES) == OLDEST
    assert (found.graph, found.model.mixer, found.training.horizon) == ("auto", "attention", 1)


def test_a_projector_that_is_older_than_what_it_is_given_was_given_all(noted: Callable[..., RunFolder]) -> None:
    bound = BoundProjector(core="core", sha256="", core_model=ModelConfig())
    whole = replace(RunConfig(), projector=bound).to_dict()
    assert run_config(noted(without(whole, OF_PROJECTORS), format=FORMAT - 1)).projector == bound


@pytest.mark.parametrize("made_in", range(FORMAT + 1))
def test_a_file_of_any_format_lacks_only_what_is_younger(noted: Callable[..., RunFolder], made_in: int) -> None:
    names = ADDED_NAMES
    older = without(RunConfig().to_dict(), *names[made_in:])
    assert run_config(noted(older, format=made_in)).to_dict().keys() == RunConfig().to_dict().keys()
    for name in names_of(older):
        if made_in == FORMAT or name in names:
            with pytest.raises(DamagedFile, match=rf"config\.json is damaged: {'.'.join(name)} is missing; put back"):
                run_config(noted(without(older, name), format=made_in))


def test_a_later_format_is_not_guessed_at(noted: Callable[..., RunFolder]) -> None:
    with pytest.raises(UserError, match=f"is of format 99, and this version reads up to {FORMAT}: use the version"):
        run_config(noted(RunConfig().to_dict(), format=99))
