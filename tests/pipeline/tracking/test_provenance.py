"""What is noted of a run's origin."""

from pathlib import Path

import pytest

from pipeline.tracking.provenance import flatten, run_tags


def test_nested_options_are_parameters_by_their_path() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}


@pytest.mark.parametrize("git", [None, "#!/bin/sh\nexit 128\n"], ids=["none", "one that refuses"])
def test_a_run_needs_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: str | None) -> None:
    if git:
        (tmp_path / "git").write_text(git)
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    tags = run_tags("a corpus", "ab", "a command", "laptop")
    assert tags["corpus"] == "a corpus" and "mlflow.source.git.commit" not in tags
