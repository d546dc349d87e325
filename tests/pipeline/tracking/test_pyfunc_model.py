"""What a registered model answers, in this process."""

from typing import Any

import pandas as pd
import pytest
import torch

from h2q.alphabet import ALPHABET, BYTES
from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.tracking.pyfunc_model import PyfuncByteModel


@pytest.mark.parametrize("mixer", ["attention", "state"])
@pytest.mark.parametrize("vocab", [100, BYTES, ALPHABET])
def test_probabilities_are_those_of_the_256_bytes_whatever_the_alphabet(vocab: int, mixer: str) -> None:
    """Those that bytes are drawn from: of markers there are none among them."""
    torch.manual_seed(0)
    served: Any = PyfuncByteModel()
    sizes: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 1, "factor": 2, "fixed_rank": 1, "seq_len": 8}
    served.model = ByteModel(ModelConfig(vocab=vocab, mixer=mixer, **sizes)).eval()
    rows = pd.DataFrame([{"prompt": "ab"}])
    [likely] = served.predict(None, rows, {"length": 0})["probabilities"]
    assert len(likely) == BYTES and sum(likely) == pytest.approx(1) and not any(likely[vocab:])
    with torch.no_grad():
        logits = served.model(torch.tensor([list(b"ab")]))[0, -1]
    wanted = logits[:BYTES].double().softmax(-1).tolist()
    assert likely[:vocab] == pytest.approx(wanted, rel=1e-4)
