"""Preparation that is killed midway leaves nothing that looks finished, and goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import open_corpus
from pipeline.prepare.prepare import prepare

PREPARE = """
import json
import sys
from pipeline.config import CorpusConfig
from pipeline.prepare.prepare import prepare
local = sys.argv[2] == "loop"
if not local:
    import ray
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
prepare(CorpusConfig.from_dict(json.loads(sys.argv[1])), local=local)
"""


def kill_midway(config: CorpusConfig, receipts: str, how: str = "loop") -> None:
    """Prepare it in a process of its own, which is killed as soon as five of the receipts are there."""
    killed = subprocess.Popen(
        [sys.executable, "-c", PREPARE, json.dumps(config.to_dict()), how], stderr=subprocess.DEVNULL
    )
    while len(list(Path(config.prepared).glob(receipts))) < 5 and killed.poll() is None:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it had finished before it was killed"


@pytest.mark.ray  # a whole job, in a process of its own that is killed
@pytest.mark.parametrize("how", ["loop", pytest.param("ray", marks=pytest.mark.slow)])
def test_killed_midway_and_run_again(tmp_path: Path, how: str, request: pytest.FixtureRequest) -> None:
    if how == "ray":
        request.getfixturevalue("ray_cluster")
    text = np.random.default_rng(0).integers(32, 127, 12_000_000, dtype=np.uint8).tobytes()
    (tmp_path / "text.txt").write_bytes(text)
    folder = tmp_path / "data"
    config = CorpusConfig(path=str(tmp_path / "text.txt"), prepared=str(folder), shard_bytes=60000)
    kill_midway(config, "*/.receipt-*.json", how)
    (made,) = folder.iterdir()
    with pytest.raises(UserError, match="no prepared corpus"):
        open_corpus(made)
    # Receipts whose workers outlived their driver for a moment may still arrive: those that are there now, stay.
    finished = {path: path.stat().st_mtime_ns for path in made.glob(".receipt-*.json")}
    shards = {path: path.stat().st_mtime_ns for path in made.glob("*.arrow")}
    assert 5 <= len(finished) < 200
    told: list[str] = []
    corpus = prepare(config, local=how == "loop", on_event=lambda event: told.append(event.text))
    assert any(text.startswith("continuing") for text in told)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    redone = [path for path, time in shards.items() if path.stat().st_mtime_ns != time]
    assert len(redone) <= 2, "at most the shards that were being written are written again"
    assert b"".join(split.read(0, len(split)).tobytes() for split in corpus.splits.values()) == text
    fresh = prepare(replace(config, prepared=str(tmp_path / "fresh")), local=True)
    assert fresh.manifest == corpus.manifest | {"command": fresh.manifest["command"]}
    assert list(made.glob(".*.tmp")) == []


@pytest.mark.ray  # a whole job, in a process of its own that is killed
def test_a_mix_killed_midway_keeps_the_kinds_that_are_finished(tmp_path: Path) -> None:
    text = b"some text\n" * 500
    (tmp_path / "text.txt").write_bytes(text)
    (tmp_path / "bytes").write_bytes(np.random.default_rng(0).bytes(6_000_000))
    mix, folder = f"text={tmp_path / 'text.txt'}@1,bytes={tmp_path / 'bytes'}@1", tmp_path / "data"
    config = CorpusConfig(mix=mix, prepared=str(folder), shard_bytes=30000)
    kill_midway(config, "bytes-*/.receipt-*.json")
    [finished] = folder.glob("*/manifest.json")
    made, told = finished.stat().st_mtime_ns, []
    corpus = prepare(config, local=True, on_event=lambda event: told.append(event.text))
    assert any("already prepared" in text for text in told) and any(text.startswith("continuing") for text in told)
    assert finished.stat().st_mtime_ns == made
    fresh = prepare(replace(config, prepared=str(tmp_path / "fresh")), local=True)
    assert corpus.sha256 == fresh.sha256 and len(corpus.train) + len(corpus.validation) + len(corpus.test) > 6_000_000


def test_a_failure_in_a_worker_is_the_same_line_and_can_be_mended(tmp_path: Path, ray_cluster: None) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02d}.txt").write_bytes(b"some text\n" * 500)
    (folder / "17.txt").write_bytes(b"some text\n" * 300 + b"\xff" + b"some text\n" * 200)
    config = CorpusConfig(path=str(folder), prepared=str(tmp_path / "data"), shard_bytes=6000)
    with pytest.raises(UserError, match=r"17.txt at byte 3000 is not valid UTF-8 \(0xff"):
        prepare(config)
    assert not list((tmp_path / "data").glob("*/manifest.json"))
    kept = prepare(CorpusConfig.from_dict(config.to_dict() | {"invalid": "keep"}))
    assert sum(split.bytes for split in kept.splits.values()) == 30 * 5000 + 1
    (folder / "17.txt").write_bytes(b"some text\n" * 500)
    mended = prepare(config)
    assert mended.manifest["bytes"] == 30 * 5000


def test_an_output_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("text " * 100)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*; choose another --corpus.prepared"):
        prepare(CorpusConfig(path=str(tmp_path / "text.txt"), prepared=str(tmp_path / "file" / "x")), local=True)
