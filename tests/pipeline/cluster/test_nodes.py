"""Every node that may train must see the storage and the corpus."""

from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.cluster.nodes import check_here


def test_a_worker_on_a_node_that_came_later_says_what_it_misses(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=rf"does not see {tmp_path}/run: give --storage"):
        check_here(tmp_path / "run" / "config.json", tmp_path / "manifest.json")
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(UserError, match=rf"does not see {tmp_path}: give --corpus.prepared"):
        check_here(tmp_path / "run" / "config.json", tmp_path / "manifest.json")
    (tmp_path / "manifest.json").touch()
    check_here(tmp_path / "run" / "config.json", tmp_path / "manifest.json")
