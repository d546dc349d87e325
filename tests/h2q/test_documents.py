"""Documents of a marked corpus: they end at a marker, can be repeated, and slide where there is no state."""

from itertools import islice

import pytest
import torch

from h2q.alphabet import ALPHABET, MARKERS
from h2q.config import ModelConfig, SamplingConfig
from h2q.documents import continued
from h2q.errors import UserError
from h2q.model import ByteModel

DOCUMENT = [MARKERS["image"], 0, 4, 0, 4, 1]


def model(**changes) -> ByteModel:
    torch.manual_seed(0)
    sizes = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 12, "vocab": ALPHABET}
    return ByteModel(ModelConfig(**{**sizes, **changes}))


@pytest.mark.parametrize("mixer", ["attention", "state"])
def test_what_is_written_is_what_the_model_draws_and_ends_at_a_marker(mixer: str) -> None:
    made = model(mixer=mixer)
    with torch.no_grad():
        made.head.bias[256:] = -1e9
    config = SamplingConfig(seed=3)
    drawn = list(continued(made, DOCUMENT, 40, config))
    assert len(drawn) == 40 and max(drawn) < 256
    assert list(islice(continued(made, DOCUMENT, 40, config), 10)) == drawn[:10]
    assert list(continued(made, DOCUMENT, 40, SamplingConfig(seed=4))) != drawn
    with torch.no_grad():
        made.head.bias[257] = 1e9
    assert list(continued(made, DOCUMENT, 40, config)) == []


def test_the_first_bytes_are_the_likeliest_of_the_whole_document() -> None:
    for mixer in ("attention", "state"):
        made = model(mixer=mixer).eval()
        with torch.no_grad():
            made.head.bias[256:] = -1e9
        written = list(continued(made, DOCUMENT, 5, SamplingConfig(temperature=0)))
        for at, byte in enumerate(written):
            logits = made(torch.tensor([[*DOCUMENT, *written[:at]]]))
            assert int(logits[0, -1].argmax()) == byte


def test_a_model_without_markers_is_told_so() -> None:
    with pytest.raises(UserError, match=r"model\.vocab must be 260, got 256"):
        next(continued(model(vocab=256), DOCUMENT, 1, SamplingConfig()))
