"""A law: what was coded is what is decoded, and its code is as long as the model says."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.model import ByteModel
from pipeline.compression.codec import Decoder, Encoder, Learn, follow
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import plan

SIZES = {"dim": 32, "depth": 2, "heads": 2, "factor": 4, "fixed_rank": 2, "seq_len": 16}


def model(**changes) -> ByteModel:
    torch.manual_seed(0)
    made = ByteModel(ModelConfig(**{**SIZES, **changes}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made.eval()


STATE = {"mixer": "state", "ngrams": "2:30x4,4:30x4", "feed_forward": False}


@pytest.mark.parametrize("changes", [{}, STATE], ids=["attention", "state"])
@pytest.mark.parametrize(("size", "lanes"), [(0, 1), (1, 1), (2, 1), (17, 1), (100, 1), (101, 4), (64, 7)])
def test_what_was_coded_is_decoded(size: int, lanes: int, changes: dict) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    encoder, both = Encoder(data), model(**changes)
    assert (follow(both, size, encoder, stride=8, lanes=lanes) == data).all()
    assert (follow(both, size, Decoder(encoder.result()), stride=8, lanes=lanes) == data).all()


def test_the_code_of_a_state_is_as_long_as_the_model_says() -> None:
    byte_model, data = model(**STATE), np.frombuffer((b"The same words, again and again. " * 200)[:500], np.uint8)
    encoder = Encoder(data)
    follow(byte_model, len(data), encoder, stride=8, lanes=1)
    x = torch.from_numpy(data.astype(np.int64))
    with torch.no_grad():
        likely = byte_model(x[None, :-1])[0].double().log_softmax(-1)
    bits = -float(likely.gather(1, x[1:, None]).sum()) / np.log(2)
    assert 32 * len(encoder.result()) == pytest.approx(8 + bits, rel=0.001, abs=32)


def test_the_code_is_as_long_as_the_model_says(tmp_path: Path) -> None:
    byte_model, size = model(), 500
    (tmp_path / "file").write_bytes((b"The same words, again and again. " * 200)[:size])
    file = RawFile(tmp_path / "file")
    encoder = Encoder(file.read(0, size))
    follow(byte_model, size, encoder, stride=8, lanes=1)
    tally = Tally.empty(16)
    for windows in plan(size, window=16, stride=8):
        tally.add(score(byte_model, windows.read(file), windows.skip, 16, contextlib.nullcontext))
    assert 32 * len(encoder.result()) == pytest.approx(8 + tally.bits, rel=0.001, abs=32)


@pytest.mark.parametrize("changes", [{}, STATE], ids=["attention", "state"])
def test_a_model_that_learns_is_followed_by_one_that_learns_alike(changes: dict) -> None:
    data = np.frombuffer(b"Once more, and once more. " * 20, np.uint8)

    def learning(seen: list) -> tuple[ByteModel, Learn]:
        byte_model = model(**changes)

        def learn(chunk: np.ndarray) -> None:
            seen.append(chunk.tobytes())
            with torch.no_grad():
                byte_model.head.bias.add_(torch.from_numpy(np.bincount(chunk.ravel(), minlength=256)) * 0.02)

        return byte_model, learn

    learnt: tuple[list, list] = ([], [])
    byte_model, learn = learning(learnt[0])
    encoder = Encoder(data)
    follow(byte_model, len(data), encoder, stride=16, lanes=2, learn=learn)
    byte_model, learn = learning(learnt[1])
    decoded = follow(byte_model, len(data), Decoder(encoder.result()), stride=16, lanes=2, learn=learn)
    assert (decoded == data).all()
    assert learnt[0] == learnt[1] and len(learnt[0]) > 10
    plain = Encoder(data)
    follow(model(**changes), len(data), plain, stride=16, lanes=2)
    assert len(encoder.result()) < len(plain.result())


def test_a_byte_that_the_model_all_but_excludes_is_coded_and_one_without_meaning_refused() -> None:
    certain = model(vocab=200)
    with torch.no_grad():
        certain.head.bias[7] += 1000
    data = np.array([7, 7, 199, 7, 0, 0], np.uint8)
    encoder = Encoder(data)
    follow(certain, 6, encoder, stride=8, lanes=1)
    assert (follow(certain, 6, Decoder(encoder.result()), stride=8, lanes=1) == data).all()
    with torch.no_grad():
        certain.head.bias[7] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        follow(certain, 6, Encoder(data), stride=8, lanes=1)
    with pytest.raises(UserError, match="must be 256, got 260"):
        follow(model(vocab=260), 6, Encoder(data), stride=8, lanes=1)
