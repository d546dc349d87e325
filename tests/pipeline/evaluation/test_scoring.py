"""Code lengths: equal to training's figure side by side, and to the definition everywhere."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.model import ByteModel
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus
from pipeline.evaluation.byte_classes import Kind, class_of, classes
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.scoring import Tally, check_alphabet, check_window, score
from pipeline.evaluation.windows import Stream, plan
from pipeline.prepare.prepare import prepare
from pipeline.training.precision import setup_precision
from pipeline.training.validate import bits_per_byte
from pipeline.training.worker import Worker

CPU = torch.device("cpu")
AUTOCAST = setup_precision("fp32", CPU)
WINDOW = 16


@pytest.fixture(scope="module")
def corpus(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    prepared = tmp_path_factory.mktemp("prepared")
    return prepare(CorpusConfig(path=str(text_folder), prepared=str(prepared)), local=True)


@pytest.fixture(scope="module")
def model() -> ByteModel:
    torch.manual_seed(0)
    config = ModelConfig(dim=32, depth=1, heads=2, factor=4, fixed_rank=2, seq_len=WINDOW, init="published")
    return ByteModel(config).eval()


def tally(model: ByteModel, data: Stream, stride: int, lanes: int = 1) -> Tally:
    found = Tally.empty(WINDOW)
    for windows in plan(len(data), window=WINDOW, stride=stride, lanes=lanes):
        found.add(score(model, windows.read(data), windows.skip, WINDOW, AUTOCAST))
    return found


def test_side_by_side_it_is_the_figure_of_training(model: ByteModel, corpus: Corpus) -> None:
    wanted = bits_per_byte(model, corpus.test, Worker(world_rank=0, world_size=1, device=CPU), AUTOCAST)
    assert (tally(model, corpus.test, WINDOW).bits + 8) / len(corpus.test) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("stride", [1, 5])
def test_it_is_the_sum_of_each_byte_given_its_context(
    model: ByteModel, text_folder: Path, tmp_path: Path, stride: int
) -> None:
    (tmp_path / "short").write_bytes((text_folder / "wiki.test.raw").read_bytes()[:150])
    short = RawFile(tmp_path / "short")
    double = ByteModel(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    data = torch.from_numpy(short.read(0, len(short)).copy()).long()
    bits = 0.0
    for target in range(1, len(data)):
        # The window that scores it is the first to reach it.
        start = 0 if target <= WINDOW else -(-(target - WINDOW) // stride) * stride
        with torch.no_grad():
            logits = double(data[None, start:target])
        assert isinstance(logits, torch.Tensor)
        bits -= float(logits[0, -1].log_softmax(-1)[data[target]]) / math.log(2)
    assert tally(model, short, stride).bits == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("kind", ["text", "bytes"])
@pytest.mark.parametrize(("stride", "lanes"), [(16, 1), (3, 1), (16, 5)])
def test_positions_and_classes_are_parts_of_the_whole(
    model: ByteModel, corpus: Corpus, stride: int, lanes: int, kind: Kind
) -> None:
    found, data = tally(model, corpus.test, stride, lanes), corpus.test.read(0, len(corpus.test))
    rates, counts = found.by_position()
    assert found.scored == len(data) - 1
    planned = plan(len(data), window=WINDOW, stride=stride, lanes=lanes)
    assert counts.tolist() == [sum(each.rows for each in planned if each.length > at) for at in range(WINDOW)]
    assert np.isfinite(rates).all(), "every position of the window"
    if stride == WINDOW:
        assert np.nansum(rates * counts) == pytest.approx(found.bits, rel=1e-12)
    by_class = found.by_class(kind)
    assert math.fsum(bits for _, bits in by_class.values()) == pytest.approx(found.bits, rel=1e-12)
    wanted = np.bincount(class_of(kind)[data[1:]], minlength=len(classes(kind)))
    assert {name: count for name, (count, _) in by_class.items()} == {
        name: count for name, count in zip(classes(kind), wanted.tolist(), strict=True) if count
    }


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_every_byte_value_has_one_class(kind: Kind) -> None:
    assert sorted(b"".join(classes(kind).values())) == list(range(256))
    assert kind == "text" or not any(letter in " ".join(classes(kind)) for letter in ("letters", "UTF-8"))


def test_every_byte_value_has_the_class_that_a_person_expects() -> None:
    wanted = {"a": "letters", "Z": "letters", "7": "digits", " ": "whitespace", "\n": "whitespace", "<": "punctuation"}
    for letter, name in wanted.items():
        assert letter.encode() in classes("text")[name]
    assert set("é€".encode()) <= set(classes("text")["multi-byte UTF-8"])
    assert {0, 127} <= set(classes("text")["control"])


def test_a_window_beyond_the_positions_and_another_alphabet_are_refused(model: ByteModel) -> None:
    with pytest.raises(UserError, match="window must be from 1 to the model's 16 positions"):
        check_window(17, model)
    counts = np.bincount([1, 2, 90], minlength=256)
    check_alphabet(counts, 91, "file")
    with pytest.raises(UserError, match=r"file holds the byte 90, but the model's alphabet ends at 89"):
        check_alphabet(counts, 90, "file")
