"""Draws are a pure function of seed, number and history, and learn from it."""

import math

import pytest

from pipeline.sweep.config import SearchConfig
from pipeline.sweep.sampler import Seen, draw
from pipeline.sweep.space import Values, parse_space

SPACE = parse_space(("model.fixed_rank=1,2,4", "training.axiom_lambda=log:1e-3:1"))


def sweep(search: SearchConfig, count: int = 12) -> list[Values]:
    """A sweep whose result is best at λ = 0.03, a third of whose trials are pruned."""
    history: list[Seen] = []
    for number in range(count):
        values = draw(SPACE, search, number, history)
        assert values is not None
        lam = values["training.axiom_lambda"]
        assert isinstance(lam, float)
        bpb = 2 + abs(math.log(lam / 0.03))
        pruned = number % 3 == 2
        seen = Seen(values=values, state="pruned", reached={10: bpb}) if pruned else None
        objectives = (bpb, 1.0)[: len(search.objectives)]
        history.append(seen or Seen(values=values, state="finished", objectives=objectives))
    return [seen.values for seen in history]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("objective", ["bpb", "bpb+time"])
def test_the_same_seed_draws_the_same(algorithm: str, objective: str) -> None:
    search = SearchConfig(algorithm=algorithm, objective=objective, seed=3)  # type: ignore[arg-type]
    first = sweep(search)
    assert first == sweep(search)
    assert len({str(values) for values in first}) == len(first)
    other = SearchConfig(algorithm=algorithm, objective=objective, seed=4)  # type: ignore[arg-type]
    assert first != sweep(other)


def test_a_draw_depends_on_the_history_alone_so_that_a_resumed_sweep_goes_on_alike() -> None:
    search = SearchConfig()
    history = [Seen(values=values, state="finished", objectives=(2.0 + n,)) for n, values in enumerate(sweep(search))]
    assert draw(SPACE, search, 12, history) == draw(SPACE, search, 12, list(history))
    assert draw(SPACE, search, 12, history) != draw(SPACE, search, 13, history)


def test_tpe_learns_and_chance_does_not() -> None:
    def distance(algorithm: str) -> float:
        last = sweep(SearchConfig(algorithm=algorithm, trials=40), 40)[-15:]  # type: ignore[arg-type]
        return sum(abs(math.log(float(values["training.axiom_lambda"] or 0) / 0.03)) for values in last) / len(last)

    assert distance("tpe") < 0.7 * distance("random")


def test_running_and_failed_configurations_are_no_obstacle() -> None:
    values = sweep(SearchConfig())
    history = [Seen(values=one, state="running" if n % 2 else "failed") for n, one in enumerate(values)]
    assert draw(SPACE, SearchConfig(), 12, history) is not None


def test_a_grid_ends() -> None:
    space = parse_space(("model.fixed_rank=1,2",))
    search = SearchConfig(algorithm="grid")
    assert [draw(space, search, number, []) for number in range(3)] == [
        {"model.fixed_rank": 1},
        {"model.fixed_rank": 2},
        None,
    ]
