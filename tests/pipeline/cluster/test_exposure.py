"""What a local run starts, and what no run tells: no Ray where none was asked for, no password anywhere."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from h2q.errors import UserError
from pipeline.cli import options_of
from pipeline.config import RunConfig, new_run
from pipeline.tracking.store import MLflowStore

ROOT = Path(__file__).parents[3]
Make = Callable[..., RunConfig]
ENDLESS = {"steps": 10**6, "evaluate_every": 10**6}


@contextmanager
def training(config: RunConfig, folder: Path, **variables: str) -> Iterator[list[psutil.Process]]:
    """The processes of a run that has made its first steps; it is stopped afterwards."""
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *options_of(config, new_run("laptop"))]
    environment = os.environ | {"RAY_ADDRESS": ""} | variables
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        journal = Path(config.storage) / "run" / "metrics.jsonl"
        while not journal.exists() or not journal.read_text():
            assert process.poll() is None
            time.sleep(0.1)
        yield [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


def heard(process: psutil.Process) -> set[str]:
    """The addresses that a process listens at."""
    return {
        connection.laddr.ip for connection in process.net_connections("tcp") if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.ray
def test_a_local_run_is_one_process_that_listens_to_nobody(tmp_path: Path, tiny: Make) -> None:
    with training(tiny(tmp_path, training=ENDLESS), tmp_path) as processes:
        titles = [" ".join(process.cmdline()) for process in processes]
        assert not [title for title in titles if "raylet" in title or "gcs_server" in title or "ray::" in title]
        assert not set().union(*map(heard, processes))


def test_no_password_or_key_is_told(
    tmp_path: Path, tiny: Make, tracking_server: tuple[str, Callable[[], AbstractContextManager[None]]]
) -> None:
    """Neither on the terminal, nor in the folder of the run, nor in MLflow: parameters, tags and artifacts."""
    hidden = ("hunter2", "AKIASECRETKEYID", "wJalrSECRETKEY", "0123456789abcdefTOKEN")
    variables = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"), hidden[1:], strict=True))
    address, running = tracking_server
    uri = address.replace("://", f"://someone:{hidden[0]}@")
    config = tiny(tmp_path, tracking={"enabled": True, "uri": uri})
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *options_of(config, new_run("laptop"))]
    with running():
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert address in done.stdout, "the address itself is told"
    left = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) > 10, "the run, and what the server keeps"
    for secret in hidden:
        assert secret not in done.stdout
        assert not any(secret.encode() in content for content in left), secret
    wrong = uri.replace(":" + uri.rpartition(":")[2], ":1")
    with pytest.raises(UserError, match=r"tracking\.uri must be") as refused:
        MLflowStore(replace(config.tracking, uri=wrong))
    assert hidden[0] not in str(refused.value)
