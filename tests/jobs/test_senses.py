"""A run over text, pictures and sounds, as a user has one: judged kind by kind, and what it writes can be opened."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.senses import synthesis
from pipeline.senses.pictures import read_picture, write_picture
from pipeline.senses.sounds import Sound, read_sound, write_sound

pytest.importorskip("soundfile")

ROOT = Path(__file__).parents[2]
SMALL = {"dim": 32, "depth": 1, "heads": 2, "factor": 4, "fixed-rank": 2, "seq-len": 16, "vocab": 260}
STEPS = {"lanes": 4, "steps": 4, "evaluate-every": 4, "save-every": 4, "warmup": 1, "reset-at": "document"}

Call = Callable[..., tuple[int, str, str]]


def pixels(seed: int, height: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], str]) -> Path:
    """A folder with a run `one` over three kinds."""
    folder = tmp_path_factory.mktemp("place")
    empty_store(folder)
    for kind in ("texts", "pictures", "sounds"):
        (folder / kind).mkdir()
    for n in range(40):
        (folder / "texts" / f"{n}.txt").write_text(f"Sentence {n} of a text about nothing.\n" * 4)
        with (folder / "pictures" / f"{n}.png").open("wb") as file:
            write_picture(pixels(n, 40 if n % 4 == 0 else 8), file)
        with (folder / "sounds" / f"{n}.wav").open("wb") as file:
            write_sound(Sound(8000, synthesis.chirp(n, 0.02)[:, None]), file)
    words = [word for name, value in SMALL.items() for word in (f"--model.{name}", str(value))]
    words += [word for name, value in STEPS.items() for word in (f"--training.{name}", str(value))]
    mix = "text=texts@2,image=pictures@1,audio=sounds@1"
    train = runpy.run_path(str(ROOT / "jobs" / "train.py"))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("pipeline.training.driver.draw", lambda *run, **what: None)
        patch.setattr("pipeline.training.samples.SAMPLE_BYTES", 20)
        assert not train([*words, "--model.mixer", "state", "--local", "--corpus.mix", mix, "--name", "one"])
    with (folder / "half.png").open("wb") as file:
        write_picture(pixels(99, 4), file)
    with (folder / "begin.wav").open("wb") as file:
        write_sound(Sound(8000, synthesis.chirp(99, 0.01)[:, None]), file)
    (folder / "text.png").write_text("no picture\n")
    return folder


@pytest.fixture
def generate(place: Path, call_job: Callable) -> Call:
    def call(*options: str) -> tuple[int, str, str]:
        done = call_job("generate", place, "one", *options)
        return done.returncode, done.stdout, done.stderr

    return call


def test_each_kind_is_judged_beside_its_codecs_in_table_json_and_mlflow(place: Path, call_job: Callable) -> None:
    from mlflow.tracking import MlflowClient

    done = call_job("evaluate", place, "one", "--local")
    assert done.returncode == 0, done.stderr
    [path] = (place / "runs" / "one" / "evaluation").glob("*.json")
    found = json.loads(path.read_text())
    kinds = {of["kind"]: of for of in found["kinds"]}
    assert list(kinds) == ["text", "image", "audio"]
    codecs = {"text": [], "image": ["PNG", "WebP"], "audio": ["FLAC"]}
    for kind, of in kinds.items():
        assert list(of["references"]) == ["gzip -9", "xz -9e", *codecs[kind]]
        assert of["bpb"] == of["bits"] / of["content"]
        header = 0 if kind == "text" else 5
        of["symbols"] = of["content"] + of["documents"] * (1 + header)
    assert sum(of["symbols"] for of in kinds.values()) == found["bytes"]
    assert sum(of["bits"] for of in kinds.values()) == pytest.approx(found["bits"])
    for word in ("by kind, of content", "WebP", "FLAC", "markers"):
        assert word in done.stdout
    tracked = json.loads((place / "runs" / "one" / "mlflow.json").read_text())
    client = MlflowClient(tracked["tracking_uri"])
    metrics = client.get_run(tracked["run_id"]).data.metrics
    assert metrics["evaluation/test-carried/image/PNG_bpb"] == kinds["image"]["references"]["PNG"]
    assert metrics["evaluation/test-carried/audio/bpb"] == kinds["audio"]["bpb"]
    names = {file.path.rpartition("/")[2] for file in client.list_artifacts(tracked["run_id"], "samples")}
    assert names == {f"step-000000004{end}" for end in (".txt", ".png", ".wav", "-spectrogram.png")}
    for name in names:
        data = (place / "runs" / "one" / "samples" / name).read_bytes()
        assert data.startswith({"png": b"\x89PNG", "wav": b"RIFF", "txt": "⟦".encode()}[name[-3:]])


def test_what_is_no_figure_of_a_kind_is_said(place: Path, call_job: Callable) -> None:
    for options, said in (
        (["--data", "texts/0.txt"], "0.txt is scored as it is: no marker says what it is"),
        (["--mode", "prequential"], "prequential is one code of all kinds together"),
    ):
        done = call_job("evaluate", place, "one", "--local", "--tracking.no-enabled", "--output", "apart", *options)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_a_picture_is_completed_below_the_rows_of_its_prompt(place: Path, generate: Call) -> None:
    options = ("--kind", "image", "--prompt", "half.png", "--seed", "3", "--top-k", "40")
    code, said, errors = generate(*options, "--out", "full.png")
    assert (code, errors) == (0, "") and "full.png: 8 × 8 pixels, grey" in said
    with (place / "full.png").open("rb") as file:
        full = read_picture(file, "full.png")
    assert full.shape == (8, 8, 1) and np.array_equal(full[:4], pixels(99, 4))
    assert generate(*options, "--out", "tall.png", "--height", "11", "--length", "5")[0] == 0
    with (place / "tall.png").open("rb") as file:
        tall = read_picture(file, "tall.png")
    assert tall.shape == (11, 8, 1) and not tall[5:].any()
    said = generate(*options, "--out", "tall.png", "--length", "5")[1]
    assert "filled up with black" in said and ", where --length ended it" in said


@pytest.mark.parametrize("end", ["wav", "flac"])
def test_a_sound_goes_on(place: Path, generate: Call, end: str) -> None:
    code, said, _ = generate("--kind", "audio", "--prompt", "begin.wav", "--out", f"full.{end}", "--length", "30")
    assert code == 0 and f"full.{end}: 0.01 s at 8,000 samples a second, 1 channel, µ-law" in said
    with (place / f"full.{end}").open("rb") as file:
        full = read_sound(file, "full")
    assert full.rate == 8000 and 80 <= len(full.samples) <= 110


def test_what_nothing_begins_can_be_opened_too(place: Path, generate: Call) -> None:
    assert generate("--kind", "image", "--out", "new.png", "--length", "40")[0] == 0
    assert generate("--kind", "audio", "--out", "new.wav", "--length", "40")[0] == 0
    with (place / "new.png").open("rb") as picture, (place / "new.wav").open("rb") as sound:
        assert read_picture(picture, "new.png").size and read_sound(sound, "new.wav").samples.size


def test_text_is_what_is_written_where_no_kind_is_named(generate: Call) -> None:
    code, said, _ = generate("--prompt", "Sentence", "--length", "20")
    assert code == 0 and said.startswith("⟦Sentence⟧")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "image", "--prompt", "text.png", "--out", "x.png"], "text.png is no picture that Pillow reads"),
        (["--kind", "audio", "--prompt", "half.png", "--out", "x.wav"], "half.png is no sound that soundfile reads"),
        (["--kind", "image", "--prompt", "none.png", "--out", "x.png"], "cannot read none.png: No such file"),
        (["--kind", "image", "--prompt", "half.png", "--out", "x.jpg"], "must end in .png, got x.jpg"),
        (["--kind", "audio"], "must end in .wav or .flac, got None"),
        (["--kind", "image", "--prompt", "half.png", "--out", "x.png", "--height", "3"], "from the prompt's 4 rows"),
        (["--kind", "image", "--out", "x.png", "--height", "3"], "height is of a picture whose first rows"),
        (["--kind", "image", "--out", "none/x.png"], "out needs a folder that is there"),
        (["--kind", "image", "--out", "x.png", "--stop", "a"], "stop is for text, not for kind image"),
        (["--kind", "bytes"], "one was trained on text and image and audio, not on bytes"),
        (["--out", "x.png"], "text goes to standard output"),
    ],
)
def test_mistakes_are_one_line(place: Path, generate: Call, options: list[str], message: str) -> None:
    code, _, errors = generate(*options)
    assert code == 2 and message in errors and errors.count("\n") == 1
    assert not (place / "x.png").exists() and not (place / "x.wav").exists()
