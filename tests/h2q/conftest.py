"""Fixtures that tests of the models share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from h2q.model import ByteModel


@pytest.fixture(scope="session")
def lively() -> "Callable[..., ByteModel]":
    """Makes a small model in float64, with a state unless told otherwise, in which no parameter is zero, so that every
    path carries something."""
    import torch

    from h2q.config import ModelConfig
    from h2q.model import ByteModel

    sizes: dict[str, Any] = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 8}

    def make(**changes: Any) -> ByteModel:
        torch.manual_seed(0)
        model = ByteModel(ModelConfig(**{"mixer": "state", "dropout": 0.0, **sizes, **changes})).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make
