"""The state on its way through training: keyed by lane, forgotten where a pure function of the step says so."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from pipeline.config import CorpusConfig, RunConfig, TrainingConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.lanes import Lanes
from pipeline.corpus.side_by_side import chunks, stretches
from pipeline.prepare.prepare import prepare
from pipeline.runs.checkpoint import list_checkpoints, read_checkpoint
from pipeline.training import loop
from pipeline.training.precision import setup_precision
from pipeline.training.resets import Resets
from pipeline.training.step import optimizer_step
from pipeline.training.train_state import TrainState, new_train_state
from pipeline.training.validate import _carried, bits_per_byte
from pipeline.training.worker import Worker

CPU = torch.device("cpu")
AUTOCAST = setup_precision("fp32", CPU)
CONFIG = RunConfig(
    model=ModelConfig(mixer="state", dim=32, depth=2, heads=2, factor=4, fixed_rank=2, seq_len=8, dropout=0.0),
    training=TrainingConfig(lanes=4, cold_starts=0.0),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Documents of very different lengths, 9,000 bytes in all in each split."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.Generator(np.random.Philox(0))
    for split in ("train", "valid", "test"):
        text = ""
        while len(text) < 9000:
            letters = generator.integers(97, 123, generator.integers(5, 400), dtype=np.uint8)
            text += f" \n = {split} = \n \n {letters.tobytes().decode()} \n"
        (folder / f"wiki.{split}.raw").write_text(text)
    return prepare(CorpusConfig(path=str(folder), prepared=str(folder / "prepared")), local=True)


def run(train_state: TrainState, seed: int, config: RunConfig = CONFIG, reset: torch.Tensor | None = None) -> None:
    data = torch.randint(256, (4, config.chunk + 1), generator=torch.Generator().manual_seed(seed))
    optimizer_step(
        train_state, train_state.model, data[:, :-1], data[:, 1:], config, AUTOCAST, detailed=False, reset=reset
    )


def test_a_step_leaves_the_state_behind_its_bytes_under_the_weights_before_it() -> None:
    train_state = new_train_state(CONFIG, CPU)
    expected = train_state.model.new_state(4)
    for seed in range(3):
        data = torch.randint(256, (4, 9), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            _, expected = train_state.model(data[:, :-1], state=expected)
        run(train_state, seed)
        assert torch.equal(train_state.carried, expected) and not train_state.carried.requires_grad


@pytest.mark.parametrize(
    "changes", [{}, {"mixer": "both", "rotation": "quaternion"}, {"ngrams": "2:64x4,3:64x4"}], ids=str
)
def test_a_step_that_resets_nowhere_is_one_without_resets(changes: dict) -> None:
    """So a captured step, which is always told where to reset, does as the eager one."""
    config = replace(CONFIG, model=replace(CONFIG.model, **changes))
    without, nowhere = new_train_state(config, CPU), new_train_state(config, CPU)
    for seed in (1, 2, 3):
        run(without, seed, config)
        run(nowhere, seed, config, reset=torch.zeros(4, 8, dtype=torch.bool))
    for name, value in without.model.state_dict().items():
        assert torch.equal(nowhere.model.state_dict()[name], value), name
    assert torch.equal(nowhere.carried, without.carried)


def test_micro_batches_carry_their_own_lanes() -> None:
    whole, cut = new_train_state(CONFIG, CPU), new_train_state(CONFIG, CPU)
    reset = torch.zeros(4, 8, dtype=torch.bool)
    reset[3, 2] = True
    for seed in range(2):
        run(whole, seed, reset=reset)
        run(cut, seed, replace(CONFIG, accumulate=2), reset=reset)
    torch.testing.assert_close(cut.carried, whole.carried, rtol=1e-4, atol=1e-5)


def test_a_skipped_step_leaves_the_state_as_it_was() -> None:
    train_state = new_train_state(CONFIG, CPU)
    run(train_state, 0)
    before = train_state.carried.clone()
    hook = train_state.model.token_emb.weight.register_hook(lambda gradient: gradient * float("nan"))
    run(train_state, 1)
    hook.remove()
    assert torch.equal(train_state.carried, before) and before.any()
    run(train_state, 2)
    assert not torch.equal(train_state.carried, before)


def test_a_snapshot_holds_every_lane_and_each_worker_takes_its_own() -> None:
    one = new_train_state(CONFIG, CPU, about={"config": CONFIG.to_dict()})
    run(one, 0)
    saved = one.snapshot()
    run(one, 1)
    one.restore(saved)
    assert torch.equal(one.carried, saved.carried["carried"])
    for rank in range(2):
        share = new_train_state(CONFIG, CPU, rows=CONFIG.training.lanes // 2)
        share.restore(saved, world_rank=rank)
        assert torch.equal(share.carried, saved.carried["carried"][2 * rank : 2 * rank + 2])


def test_a_horizon_of_chunks_is_one_long_chunk() -> None:
    """For a state alone: gradients run back through both; attention beside it starts over with each."""
    wide = replace(CONFIG, training=replace(CONFIG.training, horizon=2))
    long = replace(CONFIG, model=replace(CONFIG.model, seq_len=16))
    assert wide.chunk == long.chunk == 16 and wide.bytes_per_step == long.bytes_per_step
    one, other = new_train_state(wide, CPU), new_train_state(long, CPU)
    for seed in range(2):
        run(one, seed, wide)
        run(other, seed, long)
    for mine, yours in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, yours)


@pytest.mark.parametrize("changes", [{}, {"reset_at": "document"}, {"cold_starts": 0.3}, {"windows": "random"}])
def test_any_number_of_workers_forgets_in_the_same_places(corpus: Corpus, changes: dict) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, **changes))
    for step in (0, 1, 7, 281, 282):
        whole = Resets(corpus.train, config)(step)
        shares = [Resets(corpus.train, config, world_rank=rank, world_size=2)(step) for rank in range(2)]
        if whole is None:
            assert shares == [None, None]
        else:
            none = np.zeros((2, 8), bool)
            assert np.array_equal(np.concatenate([none if share is None else share for share in shares]), whole)


def test_lanes_forget_where_they_begin_again_and_where_documents_begin(corpus: Corpus) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, reset_at="document"))
    plain, documents = Resets(corpus.train, CONFIG), Resets(corpus.train, config)
    lanes = Lanes(corpus.train, lanes=4, seq_len=8)
    edges = [lane * len(corpus.train) // 4 for lane in range(5)]
    starts = set(corpus.train.document_starts().tolist())
    assert len(starts) > 20
    for step in range(2 * len(corpus.train) // (4 * 8)):
        ring, each = plain(step), documents(step)
        for lane, (first, last) in enumerate(itertools.pairwise(edges)):
            places = [first + (8 * step + t) % (last - first) for t in range(8)]
            assert lanes.rows(step)[lane, :8].tolist() == [int(corpus.train.read(p, p + 1)[0]) for p in places]
            for found, wanted in ((ring, {first}), (each, starts | {first})):
                row = np.zeros(8, bool) if found is None else found[lane]
                assert row.tolist() == [place in wanted for place in places]


def test_a_share_of_chunks_starts_cold(corpus: Corpus) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, cold_starts=0.1))
    found = [Resets(corpus.train, config)(step) for step in range(1, 200)]
    share = sum(0 if one is None else one[:, 0].mean() for one in found) / len(found)
    assert 0.06 < share < 0.14


def test_a_short_split_is_scored_as_one_stream(corpus: Corpus) -> None:
    """Every byte with all that came before it; not carried, every window starts at zero."""
    torch.manual_seed(0)
    config = replace(CONFIG, model=replace(CONFIG.model, seq_len=40), training=TrainingConfig(seed=1))
    model = new_train_state(config, CPU).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        data = torch.from_numpy(corpus.test.read(0, len(corpus.test)).copy()).long()[None]
        [(first, _), (second, last)] = stretches(len(corpus.test), 2)
        nats = [
            torch.nn.functional.cross_entropy(model(data[:, a:b])[0], data[0, a + 1 : b + 1], reduction="sum")
            for a, b in ((first, second), (second, last))
        ]
        worker = Worker(world_rank=0, world_size=1, device=CPU)
        carried = bits_per_byte(model, corpus.test, worker, AUTOCAST)
        fresh = bits_per_byte(model, corpus.test, worker, AUTOCAST, carry=False)
    assert carried == pytest.approx((float(sum(nats)) / np.log(2) + 8) / len(corpus.test), rel=1e-6)
    assert abs(fresh - carried) > 1e-4
    with torch.no_grad():
        shares = [
            sum(float(part) for part, _ in _carried(model, corpus.test, share, AUTOCAST, len(corpus.test)))
            for share in (Worker(world_rank=rank, world_size=3, device=CPU) for rank in range(3))
        ]
    assert sum(shares) == pytest.approx(float(sum(nats)), rel=1e-6) and min(shares) == 0, "more workers than lanes"


def test_stretches_hold_every_target_once() -> None:
    class Data:
        def __len__(self) -> int:
            return 50

        def read(self, start: int, stop: int) -> np.ndarray:
            return np.arange(start, stop, dtype=np.uint8)

    for lanes in (1, 3, 7):
        seen = [
            target
            for rows, counts in chunks(Data(), stretches(50, lanes), 4)
            for row, count in zip(rows, counts, strict=True)
            for target in row[1 : 1 + count].tolist()
        ]
        assert sorted(seen) == list(range(1, 50))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"horizon": 2}, "training.horizon 2"), ({"reset_at": "document"}, "training.reset_at document")],
)
def test_what_needs_a_state_says_so(changes: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        RunConfig(training=TrainingConfig(**changes))
    wrong: Any
    for wrong in ({"horizon": 0}, {"cold_starts": 1.5}):
        with pytest.raises(UserError, match="training"):
            TrainingConfig(**wrong)


def test_a_run_with_a_state_says_what_it_is_worth(
    tmp_path: Path, tiny: Callable[..., RunConfig], train: Callable[..., tuple]
) -> None:
    summary, folder, said = train(tiny(tmp_path, model={"mixer": "state"}), pictures=True)
    assert summary.test_bpb and summary.test_bpb_reset and summary.test_bpb != summary.test_bpb_reset
    assert f"{summary.test_bpb_reset:.3f}" in said and "state" in said
    record = folder.journal.read_text()
    for name in ("state_energy/block_01", "half_life/block_00", "half_life_p90/block_01", "test/bpb_reset"):
        assert name in record, name
    assert (folder.plots / "half_lives.png").stat().st_size > 0


def test_a_rollback_goes_back_to_the_state_of_the_checkpoint(
    tmp_path: Path, tiny: Callable[..., RunConfig], train: Callable[[RunConfig], tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No finite gradient from step 5 on, the first time: back to step 4, and to its state; each time at half the rate,
    also of the start that goes on with the run."""
    starts, restore = [], loop.restore

    def watched(train_state: TrainState, *others: Any) -> Any:
        counters = restore(train_state, *others)
        if (poisoned := {0: 5, 2: 13}.get(len(starts))) is not None:
            weight = train_state.model.token_emb.weight
            weight.register_hook(lambda gradient: gradient * float("nan") if counters.step >= poisoned else gradient)
        starts.append((counters.step, train_state, train_state.carried.clone()))
        return counters

    monkeypatch.setattr(loop, "restore", watched)
    config = tiny(tmp_path, model={"mixer": "state"}, training={"skip_limit": 2, "evaluate_every": 12})
    summary, folder, _ = train(config)
    saved = read_checkpoint(folder.checkpoints / "step-000000004")
    (_, before, _), (step, _, state) = starts
    assert step == 4 and torch.equal(state, saved.carried["carried"]) and state.any()
    assert not torch.equal(before.carried, state), "the skipped steps kept what step 4 left"
    assert summary.status == "finished" and summary.steps == 12
    train(replace(config, resume=True, training=replace(config.training, steps=16)))
    assert [step for step, *_ in starts] == [0, 4, 12, 12]
    assert [read_checkpoint(path).state["rollbacks"] for path in list_checkpoints(folder.checkpoints)] == [2, 1, 1, 0]
