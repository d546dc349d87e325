"""Damaged files of models and states: an error, in C under the sanitizers, in Python one line; never a crash."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from h2q.errors import UserError
from pipeline.export.model_file import read_model, write_model

HERE = Path(__file__).parent


def signed(content: bytes) -> bytes:
    """With the size and the sha256 that belong to it: what is wrong with it must be found elsewhere."""
    content = content[:12] + len(content).to_bytes(4, "little") + content[16:]
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


def damaged(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Cut, lengthened, flipped, with words that cannot be; of models most of them signed."""
    random = Random(seed)
    for _ in range(count):
        spoilt = bytearray(content)
        for _ in range(random.choice((1, 1, 3))):
            spoilt = spoilt or bytearray(4)
            at = random.randrange(min(random.choice((96, len(spoilt))), len(spoilt)))
            match random.randrange(5):
                case 0:
                    spoilt[at] ^= 1 << random.randrange(8)
                case 1:
                    word = random.choice((0, 1, 2, 3, 7, 255, 1 << 16, 1 << 30, (1 << 32) - 1))
                    at -= at % 4
                    spoilt[at : at + 4] = word.to_bytes(4, "little")
                case 2:
                    del spoilt[at - at % 4 :]
                    spoilt += bytes(48)  # room for a sha256
                case 3:
                    spoilt[at:at] = bytes(4 * random.randrange(1, 9))
                case 4:
                    del spoilt[at : at + 4 * random.randrange(1, 9)]
        spoilt += bytes(-len(spoilt) % 4)
        signs = content.startswith(b"H2QMODEL") and random.random() < 0.7
        yield signed(bytes(spoilt)) if signs else bytes(spoilt)


MODELS = (
    {"mixer": "both", "dim": 32, "factor": 4, "seq_len": 5, "depth": 1},
    {"dim": 32, "factor": 4, "seq_len": 5, "depth": 1, "vocab": 40, "tied_embeddings": False},
    {"kind": "dense", "mixer": "state", "rotation": "quaternion", "dim": 16, "depth": 1, "vocab": 33},
)


@pytest.fixture(scope="module")
def fuzz(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime and what tries it, under the address and the undefined-behaviour sanitizer."""
    out = tmp_path_factory.mktemp("fuzz") / "fuzz"
    options = ["-std=c99", "-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    made = subprocess.run([compiler, *options, HERE / "fuzz.c", "-o", out, "-lm"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"the C compiler has no sanitizers: {made.stderr.decode().splitlines()[-1:]}")
    return out


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", range(len(MODELS)))
def test_the_runtime_never_trips_over_a_damaged_file(
    number: int, count: int, new_model: Callable, open_c: Callable, fuzz: Path, tmp_path: Path
) -> None:
    content = write_model(new_model(**MODELS[number]), {"name": "one"}, "int8")
    with open_c(content) as whole:
        whole.read(b"\1\2\3")
        state = whole.saved()
    (tmp_path / "whole").write_bytes(content)
    files = [content, *damaged(content, number, count)]
    files += [state, *damaged(state, number, count)]
    for place, spoilt in enumerate(files):
        (tmp_path / f"{place:05d}").write_bytes(spoilt)
    names = sorted(path.name for path in tmp_path.glob("0*"))
    done = subprocess.run([fuzz, "whole", *names], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    opened, restored = map(int, done.stdout.split())
    assert 1 <= opened < len(files) / 2 and restored >= 1  # the whole ones, and few of the others


def test_python_says_in_one_line_what_is_wrong(new_model: Callable, tmp_path: Path) -> None:
    path, content = tmp_path / "m", write_model(new_model(**MODELS[0]), {}, "int8")
    flipped = content[:200] + bytes((content[200] ^ 1,)) + content[201:]
    older, newer = (content[:8] + version + content[9:] for version in (b"\1", b"\3"))
    for spoilt, rule in (
        (content[:-4], "truncated"),
        (content[:7], "no model"),
        (b"", "no model"),
        (b"#!/bin/sh\n", "no model"),
        (flipped, "altered"),
        (older, "version 1 of the format, this code reads 2"),
        (newer, "version 3"),
        (signed(content[:16] + bytes(4) + content[20:]), "damaged"),
        (signed(content[:-64] + content[-32:]), "damaged"),
        (signed(content[:-32] + bytes(8) + content[-32:]), "too many"),
    ):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=rule) as caught:
            read_model(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read"):
        read_model(tmp_path / "nothing")


@pytest.mark.parametrize("number", range(len(MODELS)))
def test_python_never_trips_over_a_damaged_file(number: int, new_model: Callable, tmp_path: Path) -> None:
    content, path, opened = write_model(new_model(**MODELS[number]), {}, "int8"), tmp_path / "m", 0
    for spoilt in damaged(content, number + 7, 150):
        path.write_bytes(spoilt)
        try:
            read_model(path)
            opened += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1
    assert opened < 75
