"""The runtime on another processor, which qemu stands in for: what it writes is what Python does."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from h2q.generate import generate
from pipeline.export.model_file import write_model
from pipeline.export.wasm import SOURCE

pytestmark = pytest.mark.slow  # Its C compiler makes a libc for the processor first: a minute.


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs it, from any folder."""
    pytest.importorskip("ziglang", reason="needs the C compiler that the package ziglang brings")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("needs qemu for aarch64: apt-get install qemu-user-static")
    out = tmp_path_factory.mktemp("aarch64") / "h2q"
    options = ["-target", "aarch64-linux-musl", "-static", "-std=c99", "-O3", "-DH2Q_MAIN"]
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *options, str(SOURCE), "-o", str(out), "-lm"], check=True)
    return [qemu, str(out)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"mixer": "state", "ngrams": "2:97x8"}, {"mixer": "both", "rotation": "quaternion"}, {"kind": "dense"}],
    ids=["attention", "state", "both, turning", "dense"],
)
def test_a_thousand_greedy_bytes_are_those_of_python(
    changes: dict[str, Any], program: list[str], new_model: Callable, tmp_path: Path
) -> None:
    model = new_model(**changes)
    (tmp_path / "m").write_bytes(write_model(model, {}, "fp32"))
    options = ("--prompt", "The ", "--temperature", "0", "--length", "1000")
    done = subprocess.run([*program, "m", *options], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == generate(model, b"The ", 1000, temperature=0)
