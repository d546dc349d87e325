"""The search space: what a person may write, what is refused, and the configs that come of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q.config import ModelConfig
from h2q.errors import UserError
from pipeline.config import PRESETS, RunConfig, TrainingConfig
from pipeline.sweep.space import (
    Choices,
    Range,
    check_keeps_model,
    configure,
    grid,
    growth_note,
    parse_space,
    searchable,
    size,
)

BASE = RunConfig(
    model=ModelConfig(dim=64, depth=2, heads=2, factor=4, fixed_rank=2), training=TrainingConfig(steps=400)
)


def test_lists_ranges_switches_and_enumerations_are_read_by_the_type_of_their_field() -> None:
    texts = (
        "model.fixed-rank=2,4",
        "training.axiom_lambda=log:1e-3:1",
        "growth.threshold=uniform:0.95:0.999",
        "growth.interval=uniform:10:50",
        "model.halves=yes,no",
        "growth.where=ffn,all",
        "model.max_rank=none,8",
        "training.learning_rate=1e-3,3e-3",
        "precision=fp32,bf16",
    )
    assert parse_space(texts) == (
        Choices("model.fixed_rank", (2, 4)),
        Range("training.axiom_lambda", 1e-3, 1.0, log=True, integer=False),
        Range("growth.threshold", 0.95, 0.999, log=False, integer=False),
        Range("growth.interval", 10, 50, log=False, integer=True),
        Choices("model.halves", (True, False)),
        Choices("growth.where", ("ffn", "all")),
        Choices("model.max_rank", (None, 8)),
        Choices("training.learning_rate", (1e-3, 3e-3)),
        Choices("precision", ("fp32", "bf16")),
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("model.fixed_rnk=2,4", "no field model.fixed_rnk to search; nearest: model.fixed_rank"),
        ("fixed_rank=2,4", "no field fixed_rank to search; nearest: model.fixed_rank"),
        ("corpus.path=a,b", "no field corpus.path to search"),
        ("nonsense=1", "no field nonsense to search"),
        ("training.evaluate_bytes=100,200", "no field training.evaluate_bytes to search"),
        ("training.seed=1,2", "no field training.seed to search"),
        ("training.keep=1,2", "no field training.keep to search"),
        ("model.fixed_rank", "must be FIELD=VALUE,VALUE or FIELD=log:LOW:HIGH, got 'model.fixed_rank'"),
        ("model.fixed_rank=", "model.fixed_rank takes integers, got ''"),
        ("model.fixed_rank=2,,4", "model.fixed_rank takes integers, got ''"),
        ("model.fixed_rank=2.5", "model.fixed_rank takes integers, got '2.5'"),
        ("model.fixed_rank=2,2", "lists model.fixed_rank = 2 twice"),
        ("model.halves=maybe", "model.halves takes yes or no, got 'maybe'"),
        ("growth.where=ffn,attention", "growth.where takes one of ffn, all, got 'attention'"),
        ("growth.where=log:1:2", "growth.where takes one of ffn, all, of which there is no range"),
        ("training.axiom_lambda=log:0:1", "needs bounds above 0 for a logarithm, got 0"),
        ("training.axiom_lambda=log:1:0.1", "needs a lower bound below the upper, got 1:0.1"),
        ("training.axiom_lambda=uniform:1", "needs two bounds as LOW:HIGH, got '1'"),
        ("training.axiom_lambda=uniform:0:inf", "takes numbers, got 'inf'"),
        ("training.axiom_lambda=nan", "takes numbers, got 'nan'"),
    ],
)
def test_a_mistake_names_the_field_and_what_is_meant(text: str, rule: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_space((text,))
    assert rule in str(raised.value)


def test_a_field_is_searched_once() -> None:
    with pytest.raises(UserError, match=r"names model\.fixed_rank 2 times"):
        parse_space(("model.fixed_rank=2", "model.fixed-rank=4"))


def test_every_searchable_field_can_be_set() -> None:
    told = BASE.to_dict()
    for name in searchable():
        part, _, field = name.rpartition(".")
        value = (told[part] if part else told)[field]
        assert configure(BASE, {"growth.enabled": False, name: value}).to_dict() == told


@given(
    ranks=st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True),
    thresholds=st.lists(st.floats(0.5, 1.0), min_size=1, max_size=4, unique=True),
)
def test_a_grid_holds_every_combination_once(ranks: list[int], thresholds: list[float]) -> None:
    space = (Choices("model.fixed_rank", tuple(ranks)), Choices("growth.threshold", tuple(thresholds)))
    found = [tuple(values.values()) for values in grid(space)]
    assert len(found) == len(set(found)) == size(space) == len(ranks) * len(thresholds)
    assert set(found) == {(rank, threshold) for rank in ranks for threshold in thresholds}


def test_a_grid_has_no_ranges() -> None:
    with pytest.raises(UserError, match=r"a grid needs listed values, training\.axiom_lambda has any number"):
        list(grid(parse_space(("training.axiom_lambda=log:1e-3:1",))))


def test_a_rank_above_its_cap_is_no_config() -> None:
    with pytest.raises(UserError, match=r"model\.fixed_rank must be at most 4 \(S/4\)² = 16.* got 17"):
        configure(BASE, {"model.fixed_rank": 17})


def test_searching_the_growth_rule_switches_growth_on_where_there_is_room() -> None:
    config = configure(BASE, {"growth.threshold": 0.97, "model.fixed_rank": 4})
    assert config.growth.enabled and config.model.max_rank == 8 and config.growth.threshold == 0.97
    rule = config.growth
    assert (rule.warmup, rule.interval, rule.lookback, rule.window, rule.rank_warmup) == (100, 50, 100, 10, 20)
    assert configure(BASE, {"growth.threshold": 0.97, "growth.interval": 7}).growth.interval == 7, "what is searched"
    chosen = replace(BASE, growth=replace(BASE.growth, interval=30), model=replace(BASE.model, max_rank=3))
    config = configure(chosen, {"growth.threshold": 0.97})
    assert (config.growth.interval, config.model.max_rank) == (30, 3), "what was set"
    assert growth_note(parse_space(("growth.threshold=0.9,0.99",))) and not growth_note(
        parse_space(("precision=fp32",))
    )


def test_a_rank_at_its_cap_does_not_grow_so_that_thresholds_make_no_difference() -> None:
    one, other = (configure(BASE, {"model.fixed_rank": 16, "growth.threshold": value}) for value in (0.9, 0.99))
    assert one == other and not one.growth.enabled


@pytest.mark.parametrize(
    ("text", "changes"),
    [("model.fixed_rank=1,2", "fixed_rank"), ("model.dim=log:64:128", "dim"), ("growth.threshold=0.9", "max_rank")],
)
def test_weights_to_begin_with_leave_the_model_as_it_is(text: str, changes: str) -> None:
    begun = replace(BASE, init_from="run")
    with pytest.raises(UserError, match=f"changes model.{changes}, but --init-from brings the model"):
        check_keeps_model(parse_space((text,)), begun)
    check_keeps_model(parse_space((text,)), BASE)
    room = replace(begun, model=replace(BASE.model, max_rank=4))
    check_keeps_model(parse_space(("training.axiom_lambda=0,1", "model.dropout=0,0.1", "growth.threshold=0.9")), room)


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_searched_is_nothing_changed(preset: str) -> None:
    assert configure(PRESETS[preset], {}) == PRESETS[preset]
