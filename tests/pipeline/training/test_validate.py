"""Bits per byte: the code length of every byte of a split, whoever computes it."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus
from pipeline.prepare.prepare import prepare
from pipeline.training import validate as evaluate
from pipeline.training.precision import setup_precision
from pipeline.training.validate import EvaluationStopped, bits_per_byte
from pipeline.training.worker import Worker

CPU = torch.device("cpu")
AUTOCAST = setup_precision("fp32", CPU)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    data = np.random.Generator(np.random.Philox(0)).integers(97, 123, 3000, dtype=np.uint8).tobytes()
    for name in ("train", "valid", "test"):
        (folder / f"wiki.{name}.raw").write_bytes(data[: 1000 + len(name)])
    return prepare(CorpusConfig(path=str(folder), prepared=str(folder / "prepared")), local=True)


@pytest.fixture(scope="module")
def model() -> ByteModel:
    torch.manual_seed(0)
    config = ModelConfig(dim=32, depth=1, heads=2, factor=4, fixed_rank=2, seq_len=16, init="published", dropout=0.5)
    return ByteModel(config).train()


def one(size: int = 1, rank: int = 0) -> Worker:
    return Worker(world_rank=rank, world_size=size, device=CPU)


def test_every_byte_is_scored_once_given_its_window(corpus: Corpus, model: ByteModel) -> None:
    data = torch.from_numpy(corpus.test.read(0, len(corpus.test)).copy()).long()
    nats = 0.0
    model.eval()
    for start in range(0, len(data) - 1, 16):
        window = data[start : start + 17]
        with torch.no_grad():
            nats += float(functional.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="sum"))
    model.train()
    wanted = (8 + nats / math.log(2)) / len(data)
    assert bits_per_byte(model, corpus.test, one(), AUTOCAST) == pytest.approx(wanted, rel=1e-6)


def test_dropout_is_off_and_the_mode_is_given_back(corpus: Corpus, model: ByteModel) -> None:
    model.train()
    assert bits_per_byte(model, corpus.test, one(), AUTOCAST) == bits_per_byte(model, corpus.test, one(), AUTOCAST)
    assert model.training


def test_the_batch_does_not_matter(corpus: Corpus, model: ByteModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bits_per_byte(model, corpus.test, one(), AUTOCAST)
    monkeypatch.setitem(evaluate.ROWS, "cpu", 3)
    monkeypatch.setitem(evaluate.POSITIONS, "cpu", 0)
    assert bits_per_byte(model, corpus.test, one(), AUTOCAST) == pytest.approx(whole, rel=1e-6)


def test_workers_share_the_split(corpus: Corpus, model: ByteModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bits_per_byte(model, corpus.test, one(), AUTOCAST)
    shares = []
    monkeypatch.setattr(Worker, "sum", lambda self, tensor: tensor)  # what a worker adds before the sum over all
    for rank in range(3):
        shares.append(bits_per_byte(model, corpus.test, one(3, rank), AUTOCAST) - 8 / len(corpus.test))
    assert sum(shares) + 8 / len(corpus.test) == pytest.approx(whole, rel=1e-6)


def test_all_workers_stop_where_one_is_told_to(
    corpus: Corpus, model: ByteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []
    both = threading.Barrier(2)

    def exchange(_: Worker, tensor: torch.Tensor) -> torch.Tensor:
        given.append(tensor)
        both.wait(60)
        return given[0] + given[1]

    monkeypatch.setattr(Worker, "sum", exchange)
    monkeypatch.setitem(evaluate.ROWS, "cpu", 3)
    monkeypatch.setitem(evaluate.POSITIONS, "cpu", 0)
    with ThreadPoolExecutor(2) as threads:
        ends = [
            threads.submit(
                bits_per_byte, model, corpus.test, one(2, rank), AUTOCAST, stopped=lambda rank=rank: rank == 1
            )
            for rank in range(2)
        ]
        for end in ends:
            with pytest.raises(EvaluationStopped):
                end.result()


def test_a_bound_scores_the_first_bytes_alone(corpus: Corpus, model: ByteModel) -> None:
    told: list[tuple[int, int]] = []
    bound = bits_per_byte(
        model, corpus.test, one(), AUTOCAST, size=100, on_progress=lambda done, total: told.append((done, total))
    )
    start = torch.from_numpy(corpus.test.read(0, 100).copy()).long()
    nats = 0.0
    model.eval()
    for window in (start[at : at + 17] for at in range(0, 99, 16)):
        with torch.no_grad():
            nats += float(functional.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="sum"))
    model.train()
    assert bound == pytest.approx((8 + nats / math.log(2)) / 100, rel=1e-6)
    assert [total for _, total in told] == [100] * len(told) and told == sorted(told) and told[-1][0] >= 99


def test_a_model_that_knows_nothing_needs_eight_bits(corpus: Corpus) -> None:
    model = ByteModel(ModelConfig(dim=32, depth=1, heads=2, factor=4, fixed_rank=2, seq_len=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert bits_per_byte(model, corpus.test, one(), AUTOCAST) == pytest.approx(8.0, abs=1e-5)
