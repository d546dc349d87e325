"""The learning rate and the evaluations that are due: functions of the step."""

from itertools import pairwise
from typing import Literal

import pytest

from h2q.config import ModelConfig
from pipeline.config import RunConfig, TrainingConfig
from pipeline.training.schedule import due_evaluations, learning_rate, next_leg, scored_after


def test_cosine_rises_to_the_peak_and_falls_to_a_tenth() -> None:
    training = TrainingConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(step, training) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[10] == 1.0 and rates[99] == pytest.approx(0.1, abs=0.01)


def test_constant_stays_at_the_peak() -> None:
    training = TrainingConfig(steps=100, warmup=0, schedule="constant", learning_rate=0.3)
    assert {learning_rate(step, training) for step in range(100)} == {0.3}


def test_a_short_run_rises_in_a_third_of_its_steps() -> None:
    training = TrainingConfig(steps=30, warmup=300, learning_rate=1.0)
    rates = [learning_rate(step, training) for step in range(30)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0 and rates[29] < 0.11


def test_a_warm_down_goes_from_what_the_rate_was_to_a_tenth_of_it() -> None:
    earlier = TrainingConfig(steps=100, warmup=10, learning_rate=1.0)
    for step in (4, 50, 100):
        now = TrainingConfig(steps=200, warmup=10, learning_rate=1.0, schedule="warm-down")
        leg = next_leg(step, now, earlier, None)
        rates = [learning_rate(at, now, leg) for at in range(step, 201)]
        assert rates[0] == pytest.approx(learning_rate(step, earlier))
        assert rates[-1] == pytest.approx(rates[0] / 10)
        assert all(later < earlier for earlier, later in pairwise(rates))
        assert next_leg(step + 9, now, now, leg) == leg, "an interruption changes nothing"
        further = TrainingConfig(steps=300, warmup=10, learning_rate=1.0, schedule="warm-down")
        again = next_leg(200, further, now, leg)
        assert learning_rate(200, further, again) == pytest.approx(rates[-1])


def test_cosine_and_constant_go_on_along_the_curve_of_the_new_number_of_steps() -> None:
    earlier = TrainingConfig(steps=100, warmup=10, learning_rate=1.0)
    for schedule in ("cosine", "constant"):
        now = TrainingConfig(steps=200, warmup=10, learning_rate=1.0, schedule=schedule)
        assert next_leg(100, now, earlier, None) is None
    assert next_leg(100, TrainingConfig(steps=200), earlier, {"step": 50, "share": 0.5}) is None


def test_a_new_run_that_warms_down_does_as_cosine() -> None:
    cosine, down = TrainingConfig(steps=90), TrainingConfig(steps=90, schedule="warm-down")
    assert [learning_rate(step, down) for step in range(91)] == [learning_rate(step, cosine) for step in range(91)]


def test_an_evaluation_is_due_until_it_is_done() -> None:
    training = TrainingConfig(steps=12, evaluate_every=5)
    due = {step: names for step in range(13) if (names := due_evaluations(step, training, {}))}
    often, at_the_end = ["validation", "sample"], ["validation", "test", "sample"]
    assert due == {5: often, 10: often, 12: at_the_end}
    assert due_evaluations(12, training, {"validation": 12, "test": 7}) == ["test", "sample"]
    assert due_evaluations(5, training, {"validation": 5, "sample": 5}) == []


@pytest.mark.parametrize("mixer", ["attention", "state"])
def test_what_is_still_scored_is_what_will_be_due(mixer: Literal["attention", "state"]) -> None:
    run = RunConfig(
        model=ModelConfig(mixer=mixer), training=TrainingConfig(steps=12, evaluate_every=5, evaluate_bytes=50)
    )
    for step in range(13):
        due = [due_evaluations(later, run.training, {}) for later in range(step + 1, 13)]
        at_the_end = 2 if mixer == "state" else 1  # with the state, and without
        scored = sum(50 * ("validation" in names) for names in due[:-1]) + at_the_end * (50 + 20) * bool(due)
        assert scored_after(step, run, validation=100, test=20) == scored
