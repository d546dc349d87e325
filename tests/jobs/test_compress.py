"""The command line of compressing: there and back, and one clear line for every mistake."""

import hashlib
import io
import json
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.compression.archive import read_archive

TEXT = "Wörter, words, mots: over and over, and over again.\n".encode() * 3


def tone() -> bytes:
    """A tenth of a second of a sine in 8 bits, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(1000)
        sound.writeframes((128 + 100 * np.sin(np.arange(100) / 5)).astype(np.uint8).tobytes())
    return file.getvalue()


FILES = {
    "text": TEXT,
    "sound.wav": tone(),
    "random": np.random.default_rng(0).bytes(120),
    "empty": b"",
    "single": b"x",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("place")
    make_run(folder / "runs", "one")
    make_run(folder / "runs", "other", dim=32, factor=4)
    make_run(folder / "runs", "few", vocab=100)
    make_run(folder / "runs", "carrying", mixer="state", ngrams="2:30x4,4:30x4", feed_forward=False)
    make_run(folder / "runs", "attending", mixer="both")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("run", ["one", "carrying"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_comes_back_from_the_code_of_a_run(
    place: Path, tmp_path: Path, name: str, run: str, call_job: Callable
) -> None:
    archive = tmp_path / f"{name}.h2q"
    done = call_job("compress", place, name, "--run", run, "--output", str(archive))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    held = read_archive(archive)
    assert held.sha256 == hashlib.sha256(FILES[name]).hexdigest() and held.model and held.config is None
    assert f"{archive.stat().st_size:,}" in done.stdout and ("xz -9e" in done.stdout) == (name != "empty")
    back = call_job("compress", place, "--decompress", str(archive), "--output", str(tmp_path / "back"))
    assert back.returncode == 0 and back.stderr == "", back.stderr
    assert (tmp_path / "back").read_bytes() == FILES[name]


@pytest.mark.parametrize("name", ["text", "empty", "single"])
def test_a_new_model_learns_while_it_codes_and_the_archive_needs_no_run(
    place: Path, tmp_path: Path, name: str, call_job: Callable
) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert call_job("compress", tmp_path, name).returncode == 0
    (tmp_path / name).unlink()
    done = call_job("compress", tmp_path, "--decompress", f"{name}.h2q")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (tmp_path / name).read_bytes() == FILES[name]


@pytest.mark.parametrize("run", ["carrying", "new"])
def test_an_archive_is_as_long_as_the_evaluation_says(
    place: Path, tmp_path: Path, run: str, call_job: Callable
) -> None:
    """By a run with a state, and by a new model that learns in several steps a chunk."""
    (tmp_path / "text").write_bytes(TEXT * 3)
    model = ["--preset", "laptop", "--updates", "3"] if run == "new" else ["--run", run]
    mode = ["--mode", "prequential", "--threads", "1"] if run == "new" else ["--local", "--threads", "1"]
    storage = ["--storage", str(place / "runs")]
    lanes = ["--lanes", "2" if run == "new" else "1"]
    done = call_job("compress", tmp_path, "text", *model, *storage, *lanes)
    assert done.returncode == 0, done.stderr
    named = [value for value in model if value != "--run"]
    quiet = ["--no-compressors", "--tracking.no-enabled", "--output", str(tmp_path / "out"), *storage]
    done = call_job("evaluate", tmp_path, *named, "--data", "text", *mode, *quiet, *lanes)
    assert done.returncode == 0, done.stderr
    [found] = (tmp_path / "out").glob("*.json")
    bits = json.loads(found.read_text())["bits"]
    assert 32 * len(read_archive(tmp_path / "text.h2q").code) == pytest.approx(bits, rel=0.005, abs=32)


@pytest.fixture(scope="module")
def coded(place: Path) -> Path:
    """Archives of a sentence by the run `one`: whole, and damaged in every part."""
    from pipeline.compression.compress import compress
    from pipeline.compression.config import CompressionConfig

    folder = place / "coded"
    folder.mkdir()
    (folder / "note").write_text("A note.")
    options = CompressionConfig(file=str(folder / "note"), run="one", storage=str(place / "runs"))
    whole = compress(options, lambda done, size: None).path.read_bytes()
    (folder / "flipped.h2q").write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    (folder / "short.h2q").write_bytes(whole[:-3])
    (folder / "header.h2q").write_bytes(whole[:40])
    (folder / "note.txt.h2q").write_text("not an archive at all")
    return folder


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ([], "name a file"),
        (["nothing"], "nothing: name another as FILE"),
        (["runs"], "FILE must be a file"),
        (["text", "--run", "one", "--output", "-"], "output must be a file, got - for standard output"),
        (["--decompress", "coded/note.h2q", "--output", "-"], "output must be a file, got - for standard output"),
        (["text", "--run", "nobody", "--output", "x"], "no run is called 'nobody'"),
        (["text", "--run", "few", "--output", "x"], "name a file of its symbols' numbers as FILE"),
        (["text", "--run", "attending", "--output", "x"], "has model.mixer both"),
        (["text", "--run", "one", "--preset", "laptop"], "leave one of them out"),
        (["text", "--preset", "lapptop"], "preset must be one of laptop"),
        (["text", "--lanes", "0"], "lanes must be at least 1"),
        (["text", "--output", "nowhere/x"], "the folder of nowhere/x does not exist"),
        (["text", "--run", "one", "--output", "single"], "single exists already"),
        (["--decompress", "text"], "text has no .h2q to leave out"),
        (["--decompress", "text", "--output", "x"], "is no archive"),
        (["--decompress", "nothing.h2q"], "no file"),
        (["--decompress", "coded/note.h2q", "--lanes", "2"], "leave them out with --decompress"),
        (["--decompress", "coded/note.h2q", "--updates", "2"], "leave them out with --decompress"),
        (["text", "--run", "one", "--updates", "2"], "a trained run does not learn while it codes"),
        (["text", "--updates", "0"], "updates must be at least 1"),
        (["--decompress", "coded/note.h2q", "--output", "x", "--run", "other"], "was coded by the model"),
        (["--decompress", "coded/flipped.h2q"], "its code has another sha256"),
        (["--decompress", "coded/short.h2q"], "is no archive"),
        (["--decompress", "coded/header.h2q"], "is no archive"),
        (["--decompress", "coded/note.txt.h2q"], "is no archive"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line(
    place: Path, coded: Path, options: list[str], rule: str, call_job: Callable
) -> None:
    before = sorted(path.name for path in (*place.iterdir(), *coded.iterdir()))
    done = call_job("compress", place, *options)
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ") and rule in done.stderr
    assert sorted(path.name for path in (*place.iterdir(), *coded.iterdir())) == before
