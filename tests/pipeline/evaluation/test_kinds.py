"""Marked documents are scored by themselves, and each kind's figure is its code over its content."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from h2q.alphabet import ALPHABET, MARKERS
from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.side_by_side import stretches
from pipeline.evaluation.carried import score_lane
from pipeline.evaluation.kinds import KindOf, code_of, kinds_in, reference_sizes
from pipeline.evaluation.references import compressing
from pipeline.evaluation.scoring import Tally
from pipeline.prepare.prepare import prepare
from pipeline.training.precision import setup_precision
from pipeline.training.validate import bits_per_byte
from pipeline.training.worker import Worker

AUTOCAST = setup_precision("fp32", torch.device("cpu"))
DOCUMENTS = [b"abcabcabc", b"xyz" * 9, b"q" * 5]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("files")
    for split, documents in {"train": DOCUMENTS[:1], "valid": DOCUMENTS[:1], "test": DOCUMENTS}.items():
        (folder / split).mkdir()
        for number, document in enumerate(documents):
            (folder / split / f"{number:02d}").write_bytes(document)
    prepared = str(tmp_path_factory.mktemp("prepared"))
    return prepare(CorpusConfig(path=str(folder), kind="bytes", markers=True, prepared=prepared), local=True)


@pytest.fixture(scope="module")
def model() -> ByteModel:
    torch.manual_seed(0)
    sizes = ModelConfig(
        mixer="state", dropout=0.0, dim=32, depth=2, heads=2, factor=4, fixed_rank=2, seq_len=8, vocab=ALPHABET
    )
    model = ByteModel(sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_a_document_costs_the_same_whatever_came_before_it(model: ByteModel, corpus: Corpus) -> None:
    test = corpus.splits["test"]
    table = score_lane(model, test, stretches(len(test), 1)[0], AUTOCAST)
    alone, marker = 0.0, MARKERS["bytes"]
    for number, document in enumerate(DOCUMENTS):
        symbols = torch.tensor([[marker, *document, marker]])
        with torch.no_grad():
            nats = -model(symbols[:, :-1]).log_softmax(-1).gather(2, symbols[:, 1:, None]).double()
        alone += float(nats.sum() if number < len(DOCUMENTS) - 1 else nats[0, :-1].sum())
    assert Tally(table).bits == pytest.approx(alone / math.log(2), rel=1e-6)
    assert Tally(table).by_class("bytes")["markers"][0] == len(DOCUMENTS) - 1


def test_training_cuts_lanes_between_documents_so_that_they_cost_nothing(
    model: ByteModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = corpus.splits["test"]
    assert stretches(len(test), 2, test.document_starts()) == [(0, 38), (38, len(test) - 1)]
    monkeypatch.setattr("pipeline.training.validate.LANE_BYTES", 8)
    bits = Tally(score_lane(model, test, stretches(len(test), 1)[0], AUTOCAST)).bits + math.log2(ALPHABET)
    found = bits_per_byte(model, test, Worker(world_rank=0, world_size=1, device=torch.device("cpu")), AUTOCAST)
    assert found * len(test) == pytest.approx(bits, rel=1e-6)


def test_a_kind_is_its_documents_and_its_rate_is_over_their_content(corpus: Corpus) -> None:
    [of] = kinds_in(corpus.splits["test"])
    assert of.kind == "bytes" and list(of.split.contents()) == DOCUMENTS
    content = sum(map(len, DOCUMENTS))
    found = code_of(of, 2.0 * content, reference_sizes(of, lambda: False))
    assert (found.content, found.documents, found.bpb) == (content, 3, 2.0)
    assert list(found.references) == ["gzip -9", "xz -9e"] and min(found.references.values()) > 0


def test_whoever_leaves_does_not_wait_for_what_others_make_of_each_kind(corpus: Corpus) -> None:
    taken: list[int] = []

    class Large:
        def __len__(self) -> int:
            return 64 << 20

        def stream(self) -> Iterator[np.ndarray]:
            yield from (taken.append(n) or np.zeros(1 << 20, np.uint8) for n in range(64))

    large: Any = Large()
    with pytest.raises(KeyboardInterrupt), compressing(corpus.test, [KindOf("text", large)], wanted=True):
        raise KeyboardInterrupt
    assert len(taken) < 64


def test_what_has_no_markers_has_no_kinds(corpus: Corpus, tmp_path: Path) -> None:
    class Bytes:
        name, sha256, alphabet = "x", "", 256

        def __len__(self) -> int:
            return 1

        def read(self, start: int, stop: int) -> np.ndarray:
            return np.zeros(stop - start, np.uint8)

        def stream(self):
            yield self.read(0, 1)

    assert kinds_in(Bytes()) == []
