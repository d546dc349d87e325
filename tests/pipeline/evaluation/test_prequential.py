"""The prequential law: every byte is scored once, before any update that saw it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from h2q.alphabet import ALPHABET
from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.learner import RAISED, Learner, learning_rates
from pipeline.evaluation.prequential import Point, coded, milestones, online
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import plan
from pipeline.training.precision import setup_precision

CPU = torch.device("cpu")
AUTOCAST = setup_precision("fp32", CPU)
WINDOW = 16


@pytest.fixture
def config(tiny: Callable[..., RunConfig], tmp_path: Path) -> RunConfig:
    return tiny(tmp_path)


@pytest.fixture
def text(text_folder: Path) -> bytes:
    return (text_folder / "wiki.valid.raw").read_bytes()[:251]


def file(folder: Path, content: bytes) -> RawFile:
    path = folder / f"{len(list(folder.iterdir()))}.raw"
    path.write_bytes(content)
    return RawFile(path)


def new(config: RunConfig, lanes: int, rate: float = 1e-2, updates: int = 2) -> Learner:
    return Learner(config, None, CPU, AUTOCAST, lanes=lanes, rate=lambda step: rate, updates=updates)


def code(
    config: RunConfig, data: RawFile, stride: int, lanes: int, rate: float = 1e-2, updates: int = 2
) -> tuple[list[Point], Tally]:
    """All points of a new learner, and its last tally."""
    learner = new(config, lanes, rate, updates)
    found = list(online(learner, data, AUTOCAST, window=WINDOW, stride=stride, lanes=lanes))
    return [point for point, _ in found], found[-1][1]


@pytest.mark.parametrize(("stride", "lanes"), [(16, 1), (16, 4), (5, 3), (16, 7)])
def test_no_code_depends_on_bytes_that_come_later(
    config: RunConfig, text: bytes, tmp_path: Path, stride: int, lanes: int
) -> None:
    text = text if lanes > 3 else text[:131]  # three chunks of a lane, or some more
    data = file(tmp_path, text)
    points, tally = code(config, data, stride, lanes)
    seen = np.frombuffer(text, np.uint8)
    edges = [lane * len(text) // lanes for lane in range(lanes + 1)]
    wanted = np.bincount(np.delete(seen, edges[:-1]), minlength=ALPHABET)
    assert np.array_equal(tally.table[1, WINDOW:], wanted), "each byte once, but the first of each lane"
    assert points[-1].bytes == len(text)
    middle = len(points) // 2
    altered = seen.copy()
    for start, stop in pairwise(edges):
        altered[min(start + points[middle].consumed, stop) : stop] ^= 1
    others, _ = code(config, file(tmp_path, altered.tobytes()), stride, lanes)
    assert others[: middle + 1] == points[: middle + 1]
    assert others[middle + 1] != points[middle + 1]
    kept = b"".join(map(bytes, coded(data, lanes, points[middle].consumed)))
    assert len(kept) == points[middle].bytes


def test_the_same_again_is_the_same_bit_for_bit(config: RunConfig, text: bytes, tmp_path: Path) -> None:
    data = file(tmp_path, text[:131])
    assert config.model.dropout > 0
    points, _ = code(config, data, 16, 2)
    assert points == code(config, data, 16, 2)[0]
    other = replace(config, training=replace(config.training, seed=1))
    assert points != code(other, data, 16, 2)[0]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_run_of_several_micro_batches_is_learned_from_in_any_number_of_lanes(
    config: RunConfig, text: bytes, tmp_path: Path, lanes: int
) -> None:
    data = file(tmp_path, text[:131])
    assert config.accumulate == 1
    points, _ = code(replace(config, accumulate=4), data, 16, lanes)
    assert points == code(config, data, 16, lanes)[0], "they are about the memory of training alone"


def test_who_does_not_learn_is_merely_scored_and_who_learns_needs_fewer_bits(
    config: RunConfig, text: bytes, tmp_path: Path
) -> None:
    data = file(tmp_path, text)
    points, _ = code(config, data, 5, 1, rate=0.0, updates=1)
    model = new(config, 1).model
    still = Tally.empty(WINDOW)
    for windows in plan(len(data), window=WINDOW, stride=5):
        still.add(score(model, windows.read(data), windows.skip, WINDOW, AUTOCAST))
    assert points[-1].bits == pytest.approx(still.bits + 8, rel=1e-6)
    assert code(config, data, 16, 1)[0][-1].bits < 0.9 * points[-1].bits


def test_more_steps_on_what_was_coded_need_fewer_bits(config: RunConfig, text: bytes, tmp_path: Path) -> None:
    data = file(tmp_path, text)
    once, thrice = (code(config, data, 16, 2, rate=3e-3, updates=updates)[0] for updates in (1, 3))
    assert thrice[0] == once[0], "the first chunk, from nothing"
    assert thrice[-1].bits < 0.98 * once[-1].bits


def test_the_rate_is_the_run_s_last_or_for_new_weights_its_peak_after_a_warm_up(config: RunConfig) -> None:
    fresh = learning_rates(config, None, None)
    assert fresh(0) < fresh(1) == fresh(10_000) == RAISED * config.training.learning_rate
    assert learning_rates(config, None, 0.5)(10_000) == 0.5


def test_too_little_data_for_the_lanes_is_refused(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 bytes for each of 4 lanes, found 7: lower --lanes"):
        code(config, file(tmp_path, b"a short"), 16, 4)


def test_a_learner_that_diverges_says_so(config: RunConfig, text: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged.*lower --learning-rate"):
        code(config, file(tmp_path, text), 16, 1, rate=1e30)


def test_milestones_are_a_dozen_at_equal_ratios_and_end_with_the_last() -> None:
    points = [Point(count, 3.0 * count, count) for count in range(100, 100_001, 100)]
    chosen = milestones(points)
    assert len(chosen) == 12 and chosen[-1] == points[-1] and chosen[0].bytes == 4100
    ratios = [later.bytes / earlier.bytes for earlier, later in pairwise(chosen)]
    assert max(ratios) / min(ratios) < 1.05
    assert milestones(points[:1]) == points[:1]
