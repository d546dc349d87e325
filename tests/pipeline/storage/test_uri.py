"""Writing through pyarrow's file systems, or beside them."""

from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.storage.uri import write_atomic


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "missing" / "x", b"data")

    class Failing:
        def __buffer__(self, flags: int) -> memoryview:
            raise AssertionError

    with pytest.raises(TypeError):
        write_atomic(tmp_path / "y", Failing())
    assert list(tmp_path.iterdir()) == []
