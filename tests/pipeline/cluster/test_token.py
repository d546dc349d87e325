"""Ray's token is its owner's alone before Ray starts, whoever made it."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.cluster.token import keep_token_private


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without a token, as of a new user whose umask lets others read."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def modes(home: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in (home / ".ray", home / ".ray" / "auth_token")]


def test_a_new_token_is_private_and_the_same_for_all_that_start_at_once(home: Path) -> None:
    starts = [threading.Thread(target=keep_token_private) for _ in range(8)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    token = (home / ".ray" / "auth_token").read_text()
    assert modes(home) == [0o700, 0o600] and len(token) == 64
    assert [path.name for path in (home / ".ray").iterdir()] == ["auth_token"]
    keep_token_private()
    assert (home / ".ray" / "auth_token").read_text() == token


def test_one_that_ray_has_made_is_taken_from_others(home: Path) -> None:
    from ray._private.authentication.authentication_token_setup import generate_and_save_token

    generate_and_save_token()
    token = (home / ".ray" / "auth_token").read_text()
    assert modes(home) == [0o755, 0o644], "what Ray leaves"
    keep_token_private()
    assert modes(home) == [0o700, 0o600] and (home / ".ray" / "auth_token").read_text() == token


def test_a_token_that_is_given_needs_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    keep_token_private()
    assert list(home.iterdir()) == []


def test_a_home_where_nothing_can_be_kept_is_one_line(home: Path) -> None:
    (home / ".ray").touch()
    with pytest.raises(UserError, match=r"Ray's token must be its owner's alone, .*\.ray.*: set HOME"):
        keep_token_private()
