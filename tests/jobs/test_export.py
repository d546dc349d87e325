"""The command line of exporting: what a file holds, and one clear line for every mistake."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.export.model_file import read_model

TEXT = "Wörter, words, mots: over and over, and over again.\n".encode() * 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("place")
    make_run(folder / "runs", "one")
    make_run(folder / "runs", "carrying", mixer="state", ngrams="2:50x4")
    make_run(folder / "runs", "published", head_layout="published")
    make_run(folder / "runs", "wide", ngrams="2:9x200")
    make_run(folder / "runs", "few", vocab=100)
    make_run(folder / "runs", "marked", vocab=260)
    make_run(folder / "runs", "empty")
    shutil.rmtree(folder / "runs" / "empty" / "checkpoints")
    (folder / "text").write_bytes(TEXT)
    (folder / "there").write_text("a file of mine")
    os.mkfifo(folder / "pipe")
    (folder / "astray").symlink_to("gone/file")
    return folder


@pytest.mark.parametrize("run", ["one", "carrying"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_run_becomes_a_file(place: Path, run: str, precision: str, call_job: Callable) -> None:
    path = place / f"{run}.{precision}"
    data = ["--data", "text"] if precision == "int8" else []
    done = call_job("export", place, run, "--to", path.name, "--precision", precision, *data)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    model, told = read_model(path)
    assert f"{path.stat().st_size:,} bytes" in done.stdout
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] in done.stdout
    assert told["name"] == run and told["step"] == 3 and told["licence"] == "not stated" and told["alphabet"] == 256
    assert told["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert f"the model of {run} at step 3" in done.stdout
    assert ("int8 costs" in done.stdout) == (precision == "int8") == (told["measured"] is not None)
    if run == "carrying" and precision == "int8":  # as it will run: the state goes through all of the file
        data = torch.tensor([list(TEXT)])
        with torch.no_grad():
            logits, _ = model.eval()(data[:, :-1], state=model.new_state(1))
        nats = torch.nn.functional.cross_entropy(logits[0], data[0, 1:])
        assert told["measured"]["bpb"] == pytest.approx(float(nats) / math.log(2), rel=1e-5)
    assert "the run was not tracked" in done.stdout


def test_int8_is_a_third_of_fp32_and_halves_are_between(place: Path, call_job: Callable) -> None:
    sizes = {}
    for name, options in {
        "whole": ["--precision", "fp32"],
        "small": ["--no-measure"],
        "mixed": ["--no-measure", "--half", "token_emb"],
    }.items():
        assert call_job("export", place, "one", "--to", name, *options).returncode == 0
        sizes[name] = (place / name).stat().st_size
    assert sizes["small"] < 0.4 * sizes["whole"] and sizes["small"] < sizes["mixed"] < sizes["whole"]


def test_a_run_becomes_a_graph_for_onnx(place: Path, call_job: Callable) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    done = call_job("export", place, "carrying", "--to", "m.onnx", "--no-measure")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told = {entry.key: entry.value for entry in onnx.load(place / "m.onnx").metadata_props}
    assert told["name"] == '"carrying"' and told["precision"] == '"int8"'


def test_the_name_says_the_format_unless_an_option_does(place: Path, call_job: Callable) -> None:
    for name, options in {"m.html": [], "m.HTML": [], "m.page": ["--format", "page"]}.items():
        assert call_job("export", place, "one", "--to", name, "--no-measure", *options).returncode == 0
        assert (place / name).read_bytes().startswith(b"<!doctype html>")
    assert call_job("export", place, "one", "--to", "x.html", "--no-measure", "--format", "h2q").returncode == 0
    assert read_model(place / "x.html")[1]["name"] == "one"


def test_what_cannot_be_measured_is_said_and_the_file_is_written(place: Path, call_job: Callable) -> None:
    done = call_job("export", place, "one", "--to", "unmeasured")
    assert done.returncode == 0 and "was not measured" in done.stdout and (place / "unmeasured").exists()


def test_a_file_is_replaced_where_that_is_asked_for(place: Path, call_job: Callable) -> None:
    (place / "old").write_text("an old file")
    assert call_job("export", place, "one", "--to", "old", "--no-measure").returncode == 2
    assert (place / "old").read_text() == "an old file"
    assert call_job("export", place, "one", "--to", "old", "--no-measure", "--force").returncode == 0
    assert read_model(place / "old")[1]["name"] == "one"


def test_an_export_that_is_not_to_be_tracked_is_not(place: Path, call_job: Callable) -> None:
    done = call_job("export", place, "one", "--to", "quiet", "--no-measure", "--tracking.no-enabled")
    assert done.returncode == 0 and "MLflow" not in done.stdout and (place / "quiet").exists()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ([], "name the run to export"),
        (["one"], "name the file to write"),
        (["nobody", "--to", "x"], "no run is called 'nobody'"),
        (["empty", "--to", "x"], "has no checkpoint yet"),
        (["published", "--to", "x"], "published head layout cannot be exported"),
        (["marked", "--to", "x", "--format", "page"], "models of bytes alone can be exported, not of markers"),
        (["wide", "--to", "x"], "tables side by side can be exported up to the width"),
        (["one", "--to", "there"], "there exists already"),
        (["one", "--to", "runs"], "runs is a folder"),
        (["one", "--to", "-"], "to must be a file, got - for standard output"),
        (["one", "--to", "x/"], "x/ is a folder: name a file in it"),
        (["one", "--to", "nowhere/x"], "nowhere is no folder: make it"),
        (["one", "--to", "pipe", "--force"], "pipe is no regular file"),
        (["one", "--to", "astray"], "gone is no folder: make it"),
        (["one", "--to", "x", "--data", "text", "--no-measure"], "data says what int8 costs"),
        (["one", "--to", "x", "--data", "nothing"], "no file"),
        (["one", "--to", "x", "--half", "head"], "half must name parts of the model, got head"),
        (["one", "--to", "x", "--half", "token_emb", "--precision", "fp32"], "leave it out"),
        (["one", "--to", "x", "--format", "gguf"], "gguf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line(place: Path, options: list[str], rule: str, call_job: Callable) -> None:
    before = sorted(path.name for path in place.iterdir())
    done = call_job("export", place, *options)
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ") and rule in done.stderr
    assert sorted(path.name for path in place.iterdir()) == before
