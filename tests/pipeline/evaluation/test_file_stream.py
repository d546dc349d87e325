"""A file as it is."""

import hashlib
import pickle
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.evaluation.file_stream import RawFile


def test_it_is_read_as_it_is_and_travels_by_its_path(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3
    (tmp_path / "file").write_bytes(content)
    data = RawFile(tmp_path / "file")
    assert len(data) == 768 and data.name == "file"
    assert data.read(3, 700).tobytes() == content[3:700] == b"".join(map(bytes, data.stream()))[3:700]
    assert data.sha256 == hashlib.sha256(content).hexdigest()
    sent = pickle.dumps(data)
    assert len(sent) < 500 and pickle.loads(sent).read(0, 768).tobytes() == content


def test_what_is_no_file_with_bytes_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, rule in (("nothing", "no file"), ("empty", "must not be empty, found 0 bytes"), (".", "is a folder")):
        with pytest.raises(UserError, match=rule) as caught:
            RawFile(tmp_path / name)
        assert "\n" not in str(caught.value)
