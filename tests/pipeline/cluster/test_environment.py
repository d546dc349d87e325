"""What Ray cannot stand in its environment is one line, and not its end, or a Ray that is open to all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.cluster.environment import PRIVATE, check_environment


@pytest.mark.parametrize("mode", ["nonsense", "", "tokens"])
def test_a_mode_that_ray_would_take_for_no_token_at_all_is_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(UserError, match=f"RAY_AUTH_MODE must be token or disabled, got '{mode}': unset it"):
        check_environment()


@pytest.mark.parametrize("mode", ["token", "TOKEN", "disabled"])
def test_the_modes_that_ray_has_are_taken(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    for name, value in PRIVATE.items():
        monkeypatch.setenv(name, value)
    check_environment()


@pytest.mark.ray  # a program of its own
def test_a_setting_that_ends_ray_as_it_is_loaded_is_one_line(tmp_path: Path) -> None:
    job = Path(__file__).parents[3] / "jobs" / "train.py"
    ran = subprocess.run(
        [sys.executable, job, "--local", "--corpus.source", "manual"],
        cwd=tmp_path,
        env=os.environ | {"RAY_worker_niceness": "abc"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    assert "Ray does not load with RAY_worker_niceness='abc': unset it" in ran.stderr
    assert list(tmp_path.iterdir()) == []
