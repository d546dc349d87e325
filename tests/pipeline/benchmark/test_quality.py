"""The comparison is fair: equal sizes, equal budget, equal tuning; and QRLM really grows."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from h2q.baselines import multiply_adds, parameters
from h2q.config import ModelConfig
from h2q.errors import UserError
from pipeline.benchmark.quality import PUBLISHED, Options, families, run
from pipeline.benchmark.quality_training import learn
from pipeline.config import PRESETS, CorpusConfig
from pipeline.prepare.prepare import prepare

TINY = ModelConfig(dim=64, depth=2, heads=2, factor=8, fixed_rank=2, seq_len=16, dropout=0.0)


def words(folder: Path, lines: int = 2000) -> Path:
    path = folder / "text.txt"
    path.write_text("".join(f"Sentence {n} of a text about nothing in particular.\n" for n in range(lines)))
    return path


def test_families_are_of_equal_size_and_told_apart():
    of = {name: config.model for name, config in families(Options()).items()}
    h2q = of["H2Q"]
    assert h2q == PRESETS["laptop"].model
    assert parameters(of["dense, equal parameters"]) == pytest.approx(parameters(h2q), rel=0.02)
    assert multiply_adds(of["dense, equal multiply-adds"]) == pytest.approx(multiply_adds(h2q), rel=0.02)
    assert not of["QRLM, growing"].halves and of["QRLM, growing"].storage_rank > of["QRLM, growing"].fixed_rank
    published = of[PUBLISHED]
    assert published.init == "published" and not published.final_norm and not published.tied_embeddings
    assert (published.dim, published.depth) == (h2q.dim, h2q.depth)


def test_qrlm_grows_within_a_short_run(tmp_path: Path):
    corpus = prepare(CorpusConfig(path=str(words(tmp_path, 300)), prepared=str(tmp_path / "data")), local=True)
    config = families(Options(model=TINY, lanes=4))["QRLM, growing"]
    config = replace(config, training=replace(config.training, learning_rate=1e-5))  # Nothing is learnt: a plateau.
    result, _ = learn(config, corpus, budget=0.0, points=40)
    assert result["steps"] == 40 and result["grown at"] and result["rank"] > config.model.fixed_rank


def test_every_family_is_tuned_alike_trained_scored_and_drawn(tmp_path: Path, ray_cluster: None):
    options = Options(
        minutes=0.002,
        seeds=2,
        rates=(0.5, 2.0),
        points=2,
        corpus=str(words(tmp_path)),
        prepared=str(tmp_path / "data"),
        model=TINY,
        lanes=4,
        plot=str(tmp_path / "plots" / "quality.png"),
    )
    result = run(options)
    assert [row["family"] for row in result["rows"]] == list(families(options))
    for row in result["rows"]:
        of_family = [run for run in result["runs"] if run["family"] == row["family"]]
        tuned = [run for run in of_family if run["seed"] == 0]
        best = min(tuned, key=lambda run: run["curve"][-1]["bpb"])
        scored = [run for run in of_family if "test bpb" in run]
        assert len(tuned) == (1 if row["family"] == PUBLISHED else 2)
        assert {run["rate"] for run in scored} == {best["rate"]} == {row["rate"]}
        assert sorted(run["seed"] for run in scored) == [0, 1]
        assert row["test bpb"] == pytest.approx(sum(run["test bpb"] for run in scored) / 2)
        assert all(0 < run["test bpb"] < 20 and len(run["curve"]) == 2 for run in scored)
    assert (tmp_path / "plots" / "quality.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.0}, "minutes must be positive, got 0.0"),
        ({"minutes": math.nan}, "minutes must be positive, got nan"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"families": ("H2Q", "LSTM")}, "families must be of H2Q"),
        ({"rates": ()}, "rates must be positive"),
        ({"model": replace(TINY, kind="dense")}, "model must be an H2Q"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Options(**changes)
