"""The runtime for a browser: `python -m pipeline.export.wasm` compiles runtime.c to runtime.wasm beside it.

The compiled file is kept in the repository, so that an export needs no compiler. It says of which source it was made:
its custom section `source` holds the sha256 of runtime.c.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("runtime.c")
WASM = Path(__file__).with_name("runtime.wasm")

_CALLS = "open close reset step read logits vocab depth window carries energy sample bits message state_size state_save"
EXPORTS = ["malloc", "free", "h2q_state_restore", *(f"h2q_{name}" for name in _CALLS.split())]
OPTIONS = ["-target", "wasm32-wasi", "-mexec-model=reactor", "-std=c99", "-O3", "-msimd128", "-s"]


def compile_wasm() -> bytes:
    """The runtime as WebAssembly, by the C compiler that the package ziglang brings."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "runtime.wasm"
        exports = [f"-Wl,--export={name}" for name in EXPORTS]
        line = [sys.executable, "-m", "ziglang", "cc", *OPTIONS, *exports, str(SOURCE), "-o", str(out)]
        subprocess.run(line, check=True)
        return out.read_bytes() + _section("source", hashlib.sha256(SOURCE.read_bytes()).digest())


def source_of(wasm: bytes) -> bytes:
    """The sha256 of the source that a compiled runtime was made of: its last section."""
    return wasm[-32:]


def _section(name: str, content: bytes) -> bytes:
    """A custom section of at most 127 bytes."""
    body = bytes((len(name),)) + name.encode() + content
    return bytes((0, len(body))) + body


if __name__ == "__main__":
    WASM.write_bytes(compile_wasm())
