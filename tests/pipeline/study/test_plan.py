"""What a study trains, from the files that there are. No training: results are written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from h2q.baselines import generation, multiply_adds
from h2q.config import ModelConfig
from h2q.errors import UserError
from pipeline.config import RunConfig, TrainingConfig
from pipeline.runs.folder import RunFolder
from pipeline.study.budget import step_multiply_adds, steps_within
from pipeline.study.config import StudyConfig, StudyOptions, sized
from pipeline.study.driver import cells_of, check_same_study, overridden
from pipeline.study.plan import StudyPlan
from pipeline.study.report import as_text, outcomes_of, trainings
from pipeline.sweep.plan import Wait
from pipeline.sweep.report import report_on
from pipeline.sweep.space import configure
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.trial import State, Trial

RUN = RunConfig(
    model=ModelConfig(dim=64, depth=1, heads=2, factor=8, fixed_rank=2, seq_len=16),
    training=TrainingConfig(steps=100, warmup=20, lanes=4, learning_rate=1e-2, embedding_lr=2.0),
)
STUDY = StudyOptions(families=("hamilton", "dense"), sizes=(64, 128), seeds=2, budget="bytes:6400", rates=(1.0, 3.0))
Open = Callable[..., tuple[Sweep, StudyPlan]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the study in the folder, as it is found there."""

    def open_study(study: StudyOptions = STUDY) -> tuple[Sweep, StudyPlan]:
        config = StudyConfig(run=RUN, study=study)
        folder = RunFolder(tmp_path / "s")
        folder.path.mkdir(exist_ok=True)
        plan = StudyPlan(study, RUN, dict.fromkeys(cells_of(config, lambda _: None), 0.5))
        return Sweep(folder, config.sweep, "laptop", lambda _: None, plan), plan

    return open_study


def end(sweep: Sweep, trial: Trial, bpb: float, state: State = "finished") -> None:
    """The trial ends as if it had been trained."""
    folder = sweep.folder_of(trial)
    steps = sweep.config_of(trial).training.steps
    record = {
        "step": steps,
        "time": 0,
        "validation/bpb": bpb,
        "test/bpb": bpb + 0.1,
        "bytes_per_second": 1000.0,
        "seconds": 6.4,
    }
    folder.journal.write_text(json.dumps(record) + "\n")
    sweep.update(trial.ended(state, folder, error=None if state == "finished" else "it was so"))


def cell(trial: Trial) -> tuple[object, ...]:
    values = trial.values
    rate = values["training.learning_rate"]
    assert isinstance(rate, float)
    return values["model.kind"], values["model.dim"], round(rate * 100, 6), trial.seed


def started(sweep: Sweep) -> Trial:
    trial = sweep.next()
    assert trial is not None
    return trial


def test_rates_are_searched_at_the_smallest_size_and_go_to_larger_ones_by_rule(opened: Open) -> None:
    sweep, plan = opened()
    firsts = [started(sweep) for _ in range(4)]
    expected = [("hamilton", 64, 1, 0), ("dense", 64, 1, 0), ("hamilton", 64, 3, 0), ("dense", 64, 3, 0)]
    assert [cell(trial) for trial in firsts] == expected
    with pytest.raises(Wait):
        sweep.next()
    for trial, bpb in zip(firsts, (3.0, 2.9, 2.8, 3.1)):
        end(sweep, trial, bpb)
    rest = [started(sweep) for _ in range(6)]
    assert [cell(trial) for trial in rest] == [
        ("hamilton", 128, 1.5, 0), ("dense", 128, 0.5, 0),
        ("hamilton", 64, 3, 1), ("dense", 64, 1, 1), ("hamilton", 128, 1.5, 1), ("dense", 128, 0.5, 1),
    ]  # fmt: skip
    assert plan.describe(rest[0].values) == "hamilton, dim 128, rate 0.015"
    assert sweep.next() is None and plan.trials == len(sweep.trials) == 10
    larger = sweep.config_of(rest[0])
    assert larger.training.embedding_lr * larger.training.learning_rate == pytest.approx(2.0 * 3e-2), "as it was"
    assert (larger.training.steps, larger.training.warmup, larger.model.factor) == (100, 20, 16)


def test_the_table_tells_families_apart(opened: Open) -> None:
    sweep, _ = opened()
    for bpb in (3.0, 2.9):
        end(sweep, started(sweep), bpb)
    report = report_on(sweep)
    kinds = [row.configuration.values[field] for row in report.rows for field in report.fields if field == "model.kind"]
    assert kinds == ["dense", "hamilton"]


def test_a_start_after_a_kill_goes_on_where_it_was(opened: Open) -> None:
    sweep, _ = opened()
    for bpb in (3.0, 2.9, 2.8):
        end(sweep, started(sweep), bpb)
    interrupted = started(sweep)
    again, _ = opened()
    assert again.next() == interrupted, "first what was running"
    assert cell(started(again))[:3] == ("hamilton", 128, 1.5), "while the other family's rate is not known yet"


def test_a_family_that_trains_with_no_rate_is_left_out(opened: Open) -> None:
    sweep, plan = opened()
    for number in range(4):
        trial = started(sweep)
        end(sweep, trial, 3.0, "failed" if number % 2 else "finished")
    kinds = set()
    while trial := sweep.next():
        kinds.add(trial.values["model.kind"])
        end(sweep, trial, 3.0)
    assert kinds == {"hamilton"}
    assert {one.family for one in outcomes_of(trainings(sweep, plan))} == {"hamilton"}


def test_a_study_is_extended_by_what_is_new(opened: Open) -> None:
    sweep, _ = opened(replace(STUDY, seeds=1, sizes=(64,)))
    while trial := sweep.next():
        end(sweep, trial, 3.0)
    wider, _ = opened(replace(STUDY, sizes=(64, 128), seeds=1, families=("hamilton", "dense", "btt")))
    added = []
    while trial := wider.next():
        added.append(cell(trial)[:2])
        end(wider, trial, 3.0)
    assert added == [("btt", 64), ("btt", 64), ("hamilton", 128), ("dense", 128), ("btt", 128)]


def test_the_result_has_means_of_seeds_costs_and_sentences(opened: Open) -> None:
    sweep, plan = opened(replace(STUDY, transfer=True))
    while True:
        trial = sweep.next()
        if trial is None:
            break
        good = trial.values["training.learning_rate"] in (1e-2, 5e-3)
        end(sweep, trial, (2.0 if good else 2.5) + 0.01 * trial.seed + 0.1 * (trial.values["model.kind"] == "dense"))
    ones = trainings(sweep, plan)
    assert len(ones) == plan.trials == 12
    outcomes = {(one.family, one.dim): one for one in outcomes_of(ones)}
    small = outcomes["hamilton", 64]
    assert small.bits == pytest.approx((2.1, 2.11)), "of the test split"
    assert small.costs["seconds"] == 50 and small.costs["parameters"] == ones[0].trial.parameters
    text = as_text(sweep, plan, ones)
    assert "* time of training, at most 50 s (or 2 % more): hamilton is best: hamilton 2.105 ± 0.007" in text
    assert "| dense | 128 | 2.100 | 2.600 | 1, an end |" in text, "the rule holds"


def test_steps_are_those_that_the_budget_allows() -> None:
    run = configure(RUN, sized(RUN.model, "dense", 128))
    one = 64 * multiply_adds(run.model) + generation(run.model)
    assert step_multiply_adds(run) == one
    for budget, steps in (("bytes:6400", 100), (f"multiply-adds:{7.5 * one}", 7), ("seconds:40", 80)):
        assert steps_within(replace(STUDY, budget=budget), run, seconds=0.5) == steps
    with pytest.raises(UserError, match=r"study.budget must be enough for a step, seconds:0.5 or more, got seconds:.4"):
        steps_within(replace(STUDY, budget="seconds:.4"), run, seconds=0.5)
    with pytest.raises(UserError, match=r"a step, bytes:64 or more, got bytes:1: raise it"):
        cells_of(StudyConfig(run=RUN, study=replace(STUDY, budget="bytes:1")), lambda _: None)


def test_what_a_study_overrides_is_said() -> None:
    asked = replace(RUN, model=replace(RUN.model, dim=128), training=replace(RUN.training, steps=7))
    assert overridden(StudyConfig(run=asked, study=STUDY), RUN) == [
        "model.dim is what --study.sizes says (64, 128) in trainings, not 128",
        "training.steps is what --study.budget bytes:6400 allows in trainings, not 7",
    ]
    assert overridden(StudyConfig(run=RUN, study=STUDY), RUN) == []
    assert overridden(StudyConfig(run=asked, study=replace(STUDY, sizes=(128,))), asked) == []
    assert len(overridden(StudyConfig(run=asked, study=replace(STUDY, sizes=(128,))), RUN)) == 1


def test_a_study_that_was_interrupted_tells_what_ended_and_has_no_empty_tables(opened: Open) -> None:
    sweep, plan = opened()
    for state in ("finished", "finished", "running"):
        trial = sweep.next()
        assert trial
        end(sweep, trial, 2.0, state)  # type: ignore[arg-type]
    text = as_text(sweep, plan, trainings(sweep, plan))
    assert "3 trainings (2 finished, 1 interrupted), " in text and "one after the other" not in text
    lines = text.splitlines()
    assert not [
        line for line, below in zip(lines, [*lines[1:], ""], strict=True) if line.startswith("|---") and below == ""
    ]
    assert "Validation bpb" not in text and "| family | dim |" not in text


def test_a_family_has_as_many_blocks_at_every_size_and_no_more_ranks_than_it_can_use() -> None:
    for family in ("hamilton", "hamilton:factors=per-block:fixed_rank=1", "phm", "btt", "monarch", "low_rank", "dense"):
        models = [configure(RUN, sized(RUN.model, family, dim)).model for dim in (64, 128, 256)]
        assert [model.blocks for model in models] == [4, 4, 4] and [model.width for model in models] == [32, 64, 128]
    assert configure(RUN, sized(RUN.model, "low_rank", 256)).model.fixed_rank == 32
    assert configure(RUN, sized(RUN.model, "hamilton:factors=per-block:fixed_rank=1", 64)).model.factors == "per-block"
    assert configure(RUN, sized(replace(RUN.model, fixed_rank=4), "btt:fixed_rank=3", 64)).model.fixed_rank == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("hamiltom",)}, "study.families must be of hamilton, dense, phm"),
        (
            {"families": ("btt:rank=2",)},
            "study.families btt:rank=2 has no field model.rank to search; nearest: model.max_rank, model.fixed_rank",
        ),
        ({"families": ("btt:fixed_rank=1,2",)}, "must give model.fixed_rank one value"),
        ({"families": ("btt:dim=64",)}, "study.families btt:dim=64 leaves the width to --study.sizes"),
        ({"families": ("dense:",)}, "study.families must be KIND or KIND:FIELD=VALUE:…, .*, got 'dense:'"),
        ({"families": ("dense:fixed_rank",)}, "study.families must be KIND or KIND:.*, got 'dense:fixed_rank'"),
        ({"families": ("dense", "dense")}, "study.families must differ"),
        ({"sizes": (128, 64)}, "the smallest first"),
        (
            {"budget": "minutes:3"},
            "study.budget must be of seconds, multiply-adds, bytes, as seconds:40, got 'minutes'",
        ),
        ({"budget": "seconds"}, "study.budget needs a positive number, as seconds:40, got ''"),
        ({"budget": "bytes:-1"}, "study.budget needs a positive number"),
        ({"rates": (0.0,)}, "study.rates must be positive"),
    ],
)
def test_a_mistake_is_one_line(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("'", ".")) as error:
        replace(STUDY, **changes)
    assert "\n" not in str(error.value)


def test_a_size_that_a_family_has_not_is_named() -> None:
    config = StudyConfig(run=RUN, study=replace(STUDY, sizes=(64, 72)))
    with pytest.raises(UserError, match=r"hamilton cannot be trained with model\.dim 72: phase rotation reads"):
        cells_of(config, lambda _: None)


def test_resume_keeps_to_the_study_and_extend_adds_to_it() -> None:
    check_same_study(STUDY, replace(STUDY, concurrency=1))
    with pytest.raises(UserError, match=r"study.sizes was \(64, 128\), now \(64, 128, 256\)"):
        check_same_study(STUDY, replace(STUDY, sizes=(64, 128, 256)))
    check_same_study(STUDY, replace(STUDY, sizes=(64, 128, 256), seeds=3, extend=True))
    for changes in ({"sizes": (32, 64, 128)}, {"sizes": (64,)}, {"seeds": 1}, {"budget": "bytes:1"}, {"rates": (1.0,)}):
        with pytest.raises(UserError, match="resume keeps to the study that was begun"):
            check_same_study(STUDY, replace(STUDY, **changes, extend=True))
