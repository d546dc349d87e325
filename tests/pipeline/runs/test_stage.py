"""What a run is busy with: noted seldom, read as it is, gone when it is over."""

import time
from pathlib import Path

import pytest

from pipeline.runs import stage
from pipeline.runs.stage import Stage, StageNote, watched_stage


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_EVERY_SECONDS", 0.01)


def wait_for(found: list[Stage | None], wanted: Stage | None) -> None:
    while not found or found[-1] != wanted:
        time.sleep(0.005)


def test_whoever_watches_sees_it_and_its_end(tmp_path: Path) -> None:
    found: list[Stage | None] = []
    (tmp_path / "stage.json").write_text('{"name": "left by a start that was killed", "done": 1, "total": 2}')
    with watched_stage(tmp_path / "stage.json", found.append), StageNote(tmp_path / "stage.json") as note:
        time.sleep(0.02)
        note.show("validation", 3, 9)
        wait_for(found, {"name": "validation", "done": 3, "total": 9})
        note.__exit__()
        wait_for(found, None)
        assert found[0] == {"name": "validation", "done": 3, "total": 9}
    assert list(tmp_path.iterdir()) == []


def test_what_is_soon_over_and_who_is_not_first_write_nothing(tmp_path: Path) -> None:
    with StageNote(tmp_path / "stage.json") as note:
        note.show("validation", 3, 9)
        assert list(tmp_path.iterdir()) == []
    with StageNote(tmp_path / "stage.json", active=False) as note:
        time.sleep(0.02)
        note.show("validation", 3, 9)
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_away_does_not_hurt(tmp_path: Path) -> None:
    with StageNote(tmp_path / "away" / "stage.json") as note:
        time.sleep(0.02)
        note.show("validation", 3, 9)
