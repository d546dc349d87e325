"""A figure does not depend on who computes it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.machine import Machine
from pipeline.evaluation.ray_scoring import Weights, _in_order, score_here, score_on_ray
from pipeline.evaluation.windows import plan

WINDOW = 16


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    torch.manual_seed(0)
    config = ModelConfig(
        dim=32, depth=1, heads=2, factor=4, fixed_rank=2, seq_len=WINDOW, init="published", tied_embeddings=False
    )
    save_file(ByteModel(config).state_dict(), tmp_path / "model.safetensors")
    return Weights(config, tmp_path / "model.safetensors")


@pytest.mark.usefixtures("ray_cluster")
def test_workers_give_what_this_process_gives_bit_for_bit(weights: Weights, text_folder: Path) -> None:
    data = RawFile(text_folder / "wiki.train.raw")
    machine = Machine(precision="fp32", gpu=False, threads=1)
    windows = plan(len(data), window=WINDOW, stride=12)
    [wanted] = score_here(weights, [data], [windows], WINDOW, machine, lambda tally: None)
    assert wanted.scored == len(data) - 1
    other = RawFile(text_folder / "wiki.test.raw")
    streams, plans = [other, data], [plan(len(other), window=WINDOW, stride=12), windows]
    shown: list[int] = []
    for workers in (1, 2):
        shown.clear()
        first, found = score_on_ray(
            weights, streams, plans, WINDOW, machine, workers, lambda tally: shown.append(tally.scored)
        )
        assert np.array_equal(found.table, wanted.table), f"{workers} workers"
        assert first.scored == len(other) - 1
        assert shown == sorted(shown) and shown[-1] == first.scored + wanted.scored


def test_streams_side_by_side_give_what_each_gives_by_itself(weights: Weights, text_folder: Path) -> None:
    streams = [RawFile(text_folder / f"wiki.{split}.raw") for split in ("test", "valid")]
    plans = [plan(len(data), window=WINDOW, stride=16) for data in streams]
    machine = Machine(precision="fp32", gpu=False, threads=1)
    shown: list[int] = []
    together = score_here(weights, streams, plans, WINDOW, machine, lambda tally: shown.append(tally.scored))
    for data, windows, found in zip(streams, plans, together, strict=True):
        [alone] = score_here(weights, [data], [windows], WINDOW, machine, lambda tally: None)
        assert np.array_equal(found.table, alone.table)
    assert shown[-1] == sum(len(data) - 1 for data in streams)


def test_tables_are_added_in_order_however_they_arrive() -> None:
    tables = [np.full(1, number) for number in range(5)]
    arrived = [(number, tables[number]) for number in (3, 0, 4, 2, 1)]
    assert [int(table[0]) for table in _in_order(arrived)] == [0, 1, 2, 3, 4]
