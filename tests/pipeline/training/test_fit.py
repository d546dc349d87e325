"""What happens to the folder of a run while it trains: one line with the way back, nothing that was saved is lost."""

import errno
import os
import re
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.runs.folder import RunFolder
from pipeline.training.fit import explained

Make = Callable[..., RunConfig]


def test_a_run_that_is_renamed_says_so_and_goes_on_under_its_new_name(
    tmp_path: Path, tiny: Make, train: Callable
) -> None:
    config = tiny(tmp_path, training={"steps": 400, "evaluate_every": 400, "save_every": 10, "keep": 99})
    runs = tmp_path / "runs"

    def rename() -> None:
        while not any(runs.glob("run/checkpoints/step-*/commit.json")):
            time.sleep(0.01)
        os.rename(runs / "run", runs / "other")

    thread = threading.Thread(target=rename)
    thread.start()
    with pytest.raises(UserError, match=r"runs/run is gone: put it back, then continue with --resume --name run;"):
        train(config)
    thread.join()
    step = int(max((runs / "other" / "checkpoints").glob("step-*")).name.removeprefix("step-"))
    shorter = replace(config.training, steps=step + 2)
    summary, folder, _ = train(replace(config, name="other", resume=True, training=shorter))
    assert (summary.status, summary.steps, folder.path) == ("finished", step + 2, runs / "other")
    assert not (runs / "run").exists()


def test_links_are_followed_by_a_run_and_by_its_resume(tmp_path: Path, tiny: Make, train: Callable) -> None:
    """The storage is a link, and then so is the run's folder, which was moved to another disk, say."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    config = tiny(tmp_path, training={"steps": 4})
    train(config)
    os.rename(tmp_path / "disk" / "run", tmp_path / "moved")
    (tmp_path / "disk" / "run").symlink_to("../moved")
    summary, folder, said = train(replace(config, resume=True, training=replace(config.training, steps=8)))
    assert "continuing at step 4 from step-000000004" in said and summary.steps == 8
    assert folder.path.is_symlink() and (tmp_path / "moved" / "checkpoints" / "step-000000008").exists()


def test_what_is_kept_of_a_fault_holds_no_password(tmp_path: Path) -> None:
    error = explained(RuntimeError("cannot open s3://KEY:hunter2@bucket/run"), RunFolder(tmp_path))
    kept = (tmp_path / "error.txt").read_text()
    assert "s3://bucket/run" in str(error) and "s3://bucket/run" in kept and "hunter2" not in f"{error}{kept}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, "storage must stay writable while a run trains, but /x/state.json is not (Permission denied)"),
        (
            errno.EROFS,
            "storage must stay writable while a run trains, but /x/state.json is not (Read-only file system)",
        ),
        (errno.ENOSPC, "storage must have room for checkpoints"),
    ],
)
def test_a_folder_that_cannot_be_written_any_more_is_one_line(tmp_path: Path, code: int, said: str) -> None:
    error = explained(OSError(code, os.strerror(code), "/x/state.json"), RunFolder(tmp_path))
    assert isinstance(error, UserError) and said in str(error) and f"--resume --name {tmp_path.name}" in str(error)
    assert list(tmp_path.iterdir()) == [], "it is no fault of the program, whose traceback would be kept"


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("name", ["a run", "it's"])
def test_the_way_back_is_one_of_a_shell_whatever_the_name(tmp_path: Path, error: Exception, name: str) -> None:
    folder = RunFolder(tmp_path / name)
    folder.path.mkdir()
    advice = re.search(r"continue with (.+?)(\)$|; )", str(explained(error, folder)))
    assert advice and shlex.split(advice[1]) == ["--resume", "--name", name]
