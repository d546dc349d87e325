"""What a sweep does next, from the files that it has; and what its table says. No training: results are written."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from h2q.baselines import parameters
from h2q.config import ModelConfig
from h2q.errors import UserError, require
from pipeline.cli import parse
from pipeline.comparison.compared_run import from_folder
from pipeline.config import RunConfig, TrainingConfig, new_run
from pipeline.runs.find import best_bpb
from pipeline.runs.folder import RunFolder
from pipeline.runs.stop import stop_wanted
from pipeline.sweep.config import SearchConfig, SweepConfig
from pipeline.sweep.configuration import ranked
from pipeline.sweep.folder import check_same_search, claim_sweep, only_one, read_sweep, sweep_config, sweep_folder
from pipeline.sweep.report import pareto_front, report_on
from pipeline.sweep.space import describe
from pipeline.sweep.sweep import Sweep
from pipeline.sweep.trial import State, Trial

RUN = RunConfig(
    model=ModelConfig(dim=64, depth=2, heads=2, factor=4, fixed_rank=2),
    training=TrainingConfig(steps=100, evaluate_every=50, seed=5),
)
Open = Callable[..., Sweep]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the sweep in the folder, as it is found there."""

    def open_sweep(*space: str, check: Callable[[RunConfig], None] = lambda _: None, **search: object) -> Sweep:
        config = SweepConfig(run=RUN, search=SearchConfig(space=space, **search))  # type: ignore[arg-type]
        folder = RunFolder(tmp_path / "s")
        folder.path.mkdir(exist_ok=True)
        return Sweep(folder, config, "laptop", check)

    return open_sweep


def end(sweep: Sweep, trial: Trial, state: State, bpb: float, step: int = 100) -> None:
    """The trial ends as if it had been trained: its journal, and the sweep's note."""
    folder = sweep.folder_of(trial)
    records = [{"step": 20, "time": 0, "validation/bpb": bpb + 1}]
    records += [{"step": step, "time": 0, "validation/bpb": bpb, "bytes_per_second": 1000.0, "growth/rank": 2}]
    folder.journal.write_text("".join(json.dumps(record) + "\n" for record in records))
    sweep.update(trial.ended(state, folder, error="it was so" if state == "failed" else None))


def test_trials_come_in_order_and_end_with_the_grid(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1,2", "training.axiom_lambda=0.1,0.2", algorithm="grid")
    assert sweep.plan.trials == 4
    trials = [trial for _ in range(5) if (trial := sweep.next())]
    assert [tuple(trial.values.values()) for trial in trials] == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    config = sweep.config_of(trials[2])
    assert (config.model.fixed_rank, config.training.axiom_lambda, config.training.seed) == (2, 0.1, 5)
    assert config.training.evaluate_every == 20, "ASHA decides after a fifth"
    assert parameters(config.model) == sum(p.numel() for p in _model(config))


def test_a_trial_trains_where_the_sweep_has_put_it(tmp_path: Path) -> None:
    config = SweepConfig(run=replace(RUN, address="auto"), search=SearchConfig(space=("model.fixed_rank=1,2",)))
    sweep = Sweep(RunFolder(tmp_path), config, "laptop", lambda _: None)
    trial = sweep.next()
    assert trial and sweep.config_of(trial).address is None, "in its own process it must not join the cluster again"
    assert replace(sweep.config_of(trial), local=True).local


def _model(config: RunConfig):
    from h2q.model import ByteModel

    return ByteModel(config.model).parameters()


def test_what_breaks_a_rule_or_is_too_large_is_skipped_with_the_reason(opened: Open) -> None:
    def check(config: RunConfig) -> None:
        require(config.model.fixed_rank != 2, "two is too large for the corpus")

    sweep = opened("model.fixed_rank=99,2,4", algorithm="grid", check=check)
    trial = sweep.next()
    assert trial and trial.values == {"model.fixed_rank": 4} and trial.number == 1 and sweep.next() is None
    reasons = [skip.reason for skip in opened("model.fixed_rank=99,2,4", algorithm="grid").plan.skipped]
    assert "at most 4 (S/4)² = 16" in reasons[0] and reasons[1:] == ["two is too large for the corpus"]


def test_a_space_without_a_valid_configuration_is_an_error_and_not_a_crash(opened: Open) -> None:
    with pytest.raises(UserError, match=r"holds no valid configuration: model\.fixed_rank must be at most"):
        (sweep := opened("model.fixed_rank=98,99", algorithm="grid")).plan.check(sweep)


def test_no_training_is_done_twice(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1,2", algorithm="random", trials=9)
    trials = [trial for _ in range(9) if (trial := sweep.next())]
    assert {trial.values["model.fixed_rank"] for trial in trials} == {1, 2} and len(trials) == 2
    assert any("the same training as configuration" in skip.reason for skip in sweep.plan.skipped)


def test_after_a_kill_ended_trials_are_kept_and_running_ones_come_first(opened: Open) -> None:
    space, search = "training.axiom_lambda=log:1e-3:1", {"trials": 4, "algorithm": "tpe"}
    undisturbed = opened(space, **search)
    first, second = undisturbed.next(), undisturbed.next()
    assert first and second
    end(undisturbed, first, "finished", 2.0)
    expected = undisturbed.next()

    killed = opened(space, **search)  # first ended, second and third were running
    assert [trial.state for trial in killed.trials] == ["finished", "running", "running"]
    assert [killed.next(), killed.next()] == [second, expected]
    fourth = killed.next()
    assert fourth and fourth.number == 4 and killed.next() is None
    assert len(list(killed.folder.path.glob("*/trial.json"))) == 4


def test_seeds_are_trials_of_one_configuration_and_a_pruned_one_is_not_tried_again(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1,2,4", algorithm="grid", seeds=3)
    trials = []
    for bpb, state in ((2.0, "finished"), (2.2, "finished"), (2.4, "finished"), (2.1, "pruned")):
        trial = sweep.next()
        assert trial
        trials.append(trial)
        end(sweep, trial, state, bpb, step=100 if state == "finished" else 20)  # type: ignore[arg-type]
    assert [(trial.configuration, trial.seed) for trial in trials] == [(1, 5), (1, 6), (1, 7), (2, 5)]
    following = sweep.next()
    assert following and following.configuration == 3
    found = sweep.configurations()[0]
    assert found.bpb == pytest.approx(2.2) and found.spread == pytest.approx(0.2)
    report = report_on(sweep)
    assert report.best is not None and report.best.number == 1
    assert report.counts == {"finished": 3, "pruned": 1, "failed": 0, "interrupted": 1}


def test_a_row_tells_which_of_its_seeds_it_is_of(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1", algorithm="grid", seeds=2)
    for bpb, state, step in ((2.0, "finished", 100), (3.0, "pruned", 20)):
        trial = sweep.next()
        assert trial
        end(sweep, trial, state, bpb, step)  # type: ignore[arg-type]
    report = report_on(sweep)
    report.save(sweep.folder)
    [row] = csv.DictReader(io.StringIO((sweep.folder.path / "table.csv").read_text()))
    assert (row["validation_bpb"], row["step"], row["trials"], row["counted"]) == ("3.0", "20", "1 2", "2")
    said = io.StringIO()
    report.show(Console(file=said, width=200), sweep.folder)
    assert "02 of 01, 02" in said.getvalue()


def test_a_trial_that_trained_on_while_it_was_pruned_has_one_figure_everywhere(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1", algorithm="grid")
    trial = sweep.next()
    assert trial
    folder = sweep.folder_of(trial)
    told = [(4, 7.5), (8, 7.0), (12, 6.5)]
    folder.journal.write_text("".join(json.dumps({"step": s, "time": s, "validation/bpb": b}) + "\n" for s, b in told))
    sweep.update(trial.ended("pruned", folder, step=4))
    compared = from_folder(folder)
    assert (compared.status, compared.results["validation bpb"], compared.results["steps"]) == ("pruned", 7.5, 4)
    assert best_bpb(folder) == 7.5 == sweep.configurations()[0].bpb


def test_the_ranking_puts_what_finished_before_what_was_pruned_before_what_failed(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1,2,4,8,16", algorithm="grid")
    ends = [("pruned", 1.5, 20), ("finished", 2.5, 100), ("failed", 1.0, 10), ("pruned", 3.0, 40)]
    for state, bpb, step in [*ends, ("finished", 2.0, 100)]:
        trial = sweep.next()
        assert trial
        end(sweep, trial, state, bpb, step)  # type: ignore[arg-type]
    assert [found.number for found in ranked(sweep.configurations())] == [5, 2, 4, 1, 3]
    report = report_on(sweep)
    report.save(sweep.folder)
    with open(sweep.folder.path / "table.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["place"] for row in rows] == ["1", "2", "", "", ""]
    assert [float(row["validation_bpb"]) for row in rows] == [2.0, 2.5, 3.0, 1.5, 1.0]
    assert [row["state"] for row in rows] == ["finished", "finished", "pruned", "pruned", "failed"]
    assert rows[-1]["error"] == "it was so" and report.errors == ["it was so"]


def test_a_trial_took_the_time_that_its_training_notes_whatever_its_last_pace(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1")
    trial = sweep.next()
    assert trial
    folder = sweep.folder_of(trial)
    told = [(10, 5.0, 1000.0), (20, 70.0, 10.0), (30, 75.0, 1000.0)]
    lines = ({"step": s, "time": 0, "seconds": spent, "bytes_per_second": rate} for s, spent, rate in told)
    folder.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, (_, spent, rate) in {10: told[0], 29: told[1], None: told[2]}.items():
        ended = trial.ended("pruned" if step else "finished", folder, step=step)
        assert (ended.seconds, ended.bytes_per_second) == (spent, rate)


def test_why_a_trial_failed_is_noted_without_passwords(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1")
    trial = sweep.next()
    assert trial
    failed = trial.ended("failed", sweep.folder_of(trial), error="cannot open s3://KEY:hunter2@bucket/x")
    assert failed.error == "cannot open s3://bucket/x"


def test_the_pareto_front_is_what_nothing_beats(opened: Open) -> None:
    sweep = opened("model.fixed_rank=1,2,4", "training.axiom_lambda=0.1,0.2", algorithm="grid")
    for bpb in (3.0, 3.1, 2.0, 2.5, 2.0, 1.9):
        trial = sweep.next()
        assert trial
        end(sweep, trial, "finished", bpb)
    assert pareto_front(sweep.configurations(), ("bpb", "parameters")) == {1, 3, 6}
    assert pareto_front(sweep.configurations(), ("bpb",)) == {6}


def test_the_best_as_a_command_line_gives_its_config_back(opened: Open) -> None:
    import shlex

    sweep = opened("growth.threshold=0.9", "model.fixed_rank=4", algorithm="grid")
    trial = sweep.next()
    assert trial
    end(sweep, trial, "finished", 2.0)
    command = report_on(sweep).command
    assert command and command.startswith("python jobs/train.py laptop --precision fp32 --model.")
    assert " --model.dim 64 " in command
    preset, *options = shlex.split(command)[2:]
    config = parse(RunConfig, options, default=new_run(preset), prog="train")
    wanted = sweep.config_of(trial)
    training = replace(wanted.training, evaluate_every=50)
    assert config == replace(wanted, training=training, storage="runs")
    assert config.growth.enabled and config.growth.threshold == 0.9


def test_resume_keeps_to_the_search_but_may_go_further(opened: Open) -> None:
    earlier = opened("model.fixed_rank=1,2", trials=4).config
    check_same_search(earlier, opened("model.fixed_rank=1,2", trials=8, concurrency=1).config)
    with pytest.raises(UserError, match=r"search\.seed was 0, now 1; leave it out, or start another --name"):
        check_same_search(earlier, opened("model.fixed_rank=1,2", seed=1).config)
    other = replace(earlier, run=replace(RUN, training=replace(RUN.training, steps=7)))
    with pytest.raises(UserError, match=r"training\.steps was 100, now 7"):
        check_same_search(earlier, other)


def test_a_sweep_has_one_process(opened: Open) -> None:
    folder = opened("model.fixed_rank=1").folder
    with only_one(folder, print), pytest.raises(UserError, match="is run by process"), only_one(folder, print):
        pass
    assert not stop_wanted(folder.path)


def test_unnamed_sweeps_of_one_second_all_start_and_know_their_names(tmp_path: Path) -> None:
    corpus: Any = SimpleNamespace(name="text", sha256="a" * 64)
    folders = [
        claim_sweep(tmp_path, SweepConfig(run=RUN), "laptop", "python jobs/tune.py", corpus, {}) for _ in range(4)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {folder.name for folder in folders}
    unnamed = sweep_folder(tmp_path, SweepConfig(run=RUN), "laptop")
    assert not unnamed.path.exists(), "until it has a name of its own, a sweep reads no other's trials"
    for folder in folders:
        stored = read_sweep(folder)
        assert stored and sweep_config(folder, stored).run == replace(RUN, name=folder.name)


def test_values_are_described_in_few_letters() -> None:
    assert describe({"model.fixed_rank": 4, "training.axiom_lambda": 0.0123456}) == "fixed_rank 4, axiom_lambda 0.01235"


def test_the_end_says_how_to_register_the_best_trial_and_where_to_look(
    opened: Open, tmp_path: Path, tiny: Callable[..., RunConfig], train: Callable
) -> None:
    _, ended, _ = train(tiny(tmp_path / "else", training={"steps": 1, "warmup": 0}))
    sweep = opened("model.fixed_rank=1,2")
    trial = sweep.next()
    assert trial
    end(sweep, trial, "finished", 2.345)
    tracked = {"mlflow_tracking_uri": "sqlite:////a/mlflow.db", "mlflow_experiment_id": "1"}
    sweep.folder_of(trial).write_summary({**(ended.summary() or {}), **tracked})
    said = io.StringIO()
    report_on(sweep).show(Console(file=said, width=80), sweep.folder)
    at = f"--storage {sweep.folder.path} --name {sweep.folder_of(trial).name}"
    assert f"python jobs/train.py --resume {at} --tracking.register NAME\n" in said.getvalue()
    assert "mlflow ui --backend-store-uri sqlite:////a/mlflow.db\n" in said.getvalue()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_fits_the_terminal_and_names_what_it_leaves_out(opened: Open, width: int) -> None:
    sweep = opened("model.fixed_rank=1,2", "training.axiom_lambda=0.1", "training.learning_rate=0.00123,0.00456")
    for state in ("finished", "pruned"):
        trial = sweep.next()
        assert trial
        end(sweep, trial, state, 2.345)
    said = io.StringIO()
    report_on(sweep).show(Console(file=said, width=width), sweep.folder)
    table = said.getvalue().partition("trials:")[0].partition("no room for")[0].splitlines()
    assert all(len(line) <= width for line in table) and "…" not in said.getvalue()
    assert "finished" in said.getvalue() and "2.345" in said.getvalue()
    assert ("no room for" in said.getvalue() and "table.csv" in said.getvalue()) == (width < 160)
