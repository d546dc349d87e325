"""Mixers are compared at one recipe and budget; what carries a state is scored with it and without."""

from pathlib import Path

import pytest

from h2q.baselines import parameters
from h2q.config import ModelConfig
from h2q.errors import UserError
from pipeline.benchmark.mixers import MIXERS, SIZES, Options, run

TINY = ModelConfig(dim=64, depth=3, heads=2, factor=8, fixed_rank=2, seq_len=16, dropout=0.0)


@pytest.mark.ray  # two whole trainings
def test_every_mixer_is_trained_and_scored(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Sentence {n} of a text about nothing in particular.\n" for n in range(300)))
    mixers = ("relative positions", "state, quaternions")
    prepared = str(tmp_path / "data")
    result = run(Options(mixers=mixers, minutes=1e-4, seeds=(0,), model=TINY, corpus=str(text), prepared=prepared))
    assert [row["mixer"] for row in result["rows"]] == list(mixers)
    attention, state = result["runs"]
    assert "reset" not in attention and state["model"]["rotation"] == "quaternion"
    for bpb in (attention["carried"], attention["validation"], state["carried"], state["reset"]):
        assert 0 < bpb < 20
    assert state["reset"] != state["carried"]


def test_all_are_of_one_size() -> None:
    sizes = [parameters(ModelConfig(**{**SIZES.to_dict(), **changes})) for changes in MIXERS.values()]
    assert all(165_000 < size <= 210_000 for size in sizes), sizes


def test_what_is_no_mixer_is_refused() -> None:
    with pytest.raises(UserError, match=r"mixers must be of learned positions.*; got memory"):
        Options(mixers=("memory",))
    with pytest.raises(UserError, match="minutes must be positive"):
        Options(minutes=0)
