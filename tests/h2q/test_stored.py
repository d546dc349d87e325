"""Stored bytes: what is counted is what int8 with a scale for each row takes, for every family."""

from typing import Any

import pytest

from h2q.config import ModelConfig
from h2q.model import ByteModel
from h2q.stored import stored_bytes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"factors": "per-block"},
        *({"kind": kind} for kind in ("dense", "phm", "btt", "monarch", "low_rank")),
        {"mixer": "state", "ngrams": "2:9x5"},
        {"max_rank": 4},
    ],
    ids=str,
)
def test_every_number_is_counted_once(changes: dict[str, Any]) -> None:
    """A byte for a number of a matrix and two for each of its rows; two for a number of a vector or of the bank."""
    sizes: dict[str, Any] = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 2, "seq_len": 8}
    config = ModelConfig(**(sizes | changes))
    counted = 0
    for name, value in ByteModel(config).named_parameters():
        wide = value.ndim == 1 or "components" in name
        counted += 2 * value.numel() if wide else value.numel() + 2 * sum(1 for _ in value.flatten(0, -2))
    assert stored_bytes(config) == counted


def test_a_table_costs_its_numbers_and_a_scale_for_each_row() -> None:
    plain: dict[str, Any] = {"dim": 64, "depth": 1, "heads": 2, "factor": 8, "fixed_rank": 2, "mixer": "state"}
    assert stored_bytes(ModelConfig(ngrams="3:100x8", **plain)) - stored_bytes(ModelConfig(**plain)) == 100 * (8 + 2)
