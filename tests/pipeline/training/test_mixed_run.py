"""A run over a mix: a figure for each kind wherever results are told, and the laws of any run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from h2q.errors import UserError
from pipeline.comparison.compare import compare
from pipeline.comparison.compared_run import from_folder
from pipeline.comparison.table import grid
from pipeline.config import CorpusConfig, RunConfig
from pipeline.corpus.mixed import AnySplit, MixedSplit
from pipeline.prepare.prepare import prepare
from pipeline.runs.checkpoint import list_checkpoints, newest_valid
from pipeline.runs.folder import RunFolder
from pipeline.runs.journal import Record, read_journal
from pipeline.storage.path import remove_whole
from pipeline.training.plots import draw
from pipeline.training.summary import Summary, read_summary
from pipeline.training.validate import by_kind

Make = Callable[..., RunConfig]
Train = Callable[..., tuple[Summary, RunFolder, str]]
TIMES = {"time", "seconds", "evaluation_seconds", "bytes_per_second", "memory/peak_bytes"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, text_folder: Path, tiny: Make) -> Make:
    """Makes the config of a tiny run, of a model with a state, over English and its bytes upside down."""
    folder = tmp_path_factory.mktemp("bytes")
    for file in text_folder.iterdir():
        (folder / file.name).write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    prepared = str(tmp_path_factory.mktemp("prepared"))
    corpus = CorpusConfig(mix=f"text={text_folder}@3,bytes={folder}@1", prepared=prepared)

    def make(storage: Path, *, training: dict[str, object] | None = None, **changes: object) -> RunConfig:
        told = {"reset_at": "document", "lanes": 4} | (training or {})
        model = {"mixer": "state", "vocab": 260, "dropout": 0.0}  # which each worker draws by itself
        return tiny(storage, corpus=corpus, model=model, training=told, **changes)

    return make


def history(folder: RunFolder) -> list[Record]:
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_journal(folder.journal)]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = newest_valid(folder.checkpoints)
    assert found is not None
    return {**found[0].model, **found[0].optimizer, **found[0].carried}


def test_a_run_over_a_mix_tells_of_each_kind(tmp_path: Path, mixed: Make, train: Train) -> None:
    config = mixed(tmp_path)
    summary, folder, said = train(config)
    corpus = prepare(config.corpus, local=True)
    last = read_journal(folder.journal)[-1]
    for split in ("validation", "test"):
        sizes = {kind: len(part.splits[split]) for kind, _, part in corpus.parts}
        overall = sum(last[f"{split}/{kind}/bpb"] * size for kind, size in sizes.items()) / sum(sizes.values())
        assert last[f"{split}/bpb"] == pytest.approx(overall)
        for kind in sizes:
            assert summary.kinds[f"{split}/{kind}"] == last[f"{split}/{kind}/bpb"]
            assert f"{split}/{kind}/bpb_reset" in last
            assert summary.references[f"{split}/{kind}"]["gzip"]
    assert (summary.corpus, summary.corpus_sha256) == (corpus.name, corpus.sha256) and "text (" in summary.corpus
    rows = [line.replace("│", " ").split() for line in said.splitlines()]
    assert any(row[:1] == ["bytes"] and row[1] == f"{last['validation/bytes/bpb']:.3f}" for row in rows)
    assert f"text {last['validation/text/bpb']:.3f}" in said and "note" not in said
    assert "beginnings of the test split, completed by the model" in said and "step-000000012.raw" in said
    assert read_summary(folder) == summary
    table = {row[0]: row[1:] for row in grid(compare([from_folder(folder)]))}
    assert table["test bpb of text"] == [f"{last['test/text/bpb']:.4f}"] and "test bpb of image" not in table
    draw(read_journal(folder.journal), tmp_path / "plots", "run", references=summary.references["validation"])
    assert (tmp_path / "plots" / "curves.png").stat().st_size > 10_000


def test_a_run_over_a_mix_that_goes_on_is_one_that_was_not_interrupted(
    tmp_path: Path, mixed: Make, train: Train
) -> None:
    _, whole, _ = train(mixed(tmp_path))
    again = RunFolder(shutil.copytree(whole.path, whole.path.with_name("again")))
    for path in list_checkpoints(again.checkpoints)[:-1]:  # as if it had been killed behind its first
        remove_whole(path, "commit.json")
    again.summary_file.unlink()
    _, again, said = train(replace(mixed(tmp_path), name="again", resume=True))
    assert "continuing at step 4" in said and history(whole) == history(again)
    ours, theirs = weights(whole), weights(again)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    stored = json.loads(again.config_file.read_bytes())["config"]["corpus"]
    assert stored["mix"] == mixed(tmp_path).corpus.mix


def test_a_short_evaluation_scores_its_share_of_each_kind(tmp_path: Path, mixed: Make, train: Train) -> None:
    _, folder, _ = train(mixed(tmp_path, training={"steps": 2, "evaluate_bytes": 200}))
    last = read_journal(folder.journal)[-1]
    assert last["validation/bpb"] == pytest.approx(
        (last["validation/text/bpb"] + last["validation/bytes/bpb"]) / 2, 1e-2
    )


def test_a_share_goes_by_the_size_of_a_kind(tmp_path: Path, mixed: Make) -> None:
    corpus = prepare(mixed(tmp_path).corpus, local=True)
    train, validation = corpus.train, corpus.validation
    assert isinstance(train, MixedSplit) and isinstance(validation, MixedSplit)
    split = MixedSplit((train.parts[0], validation.parts[1]))
    asked: list[int] = []
    told: list[tuple[int, int]] = []

    def score(split: AnySplit, *, size: int, on_progress: Callable[[int, int], object]) -> float:
        asked.append(size)
        on_progress(size, size)
        return float(len(asked))

    found = by_kind(score, split, 1000, lambda done, total: told.append((done, total)))
    expected = [1000 * len(part.split) // len(split) for part in split.parts]
    assert asked == expected and expected[0] > 2 * expected[1] > 4
    assert told == [(asked[0], sum(asked)), (sum(asked), sum(asked))]
    assert (found["text/bpb"], found["bytes/bpb"]) == (1, 2)
    assert found["bpb"] == pytest.approx((asked[0] + 2 * asked[1]) / sum(asked))


def test_two_workers_train_on_the_same_batches(tmp_path: Path, mixed: Make, train: Train, ray_cluster: None) -> None:
    one, _, _ = train(mixed(tmp_path / "one", training={"steps": 4}))
    two, _, _ = train(mixed(tmp_path / "two", training={"steps": 4}, local=False, workers=2, threads=1))
    assert two.validation_bpb == pytest.approx(one.validation_bpb, rel=1e-3)
    assert two.kinds.keys() == one.kinds.keys() and two.world_size == 2
    for name, bpb in two.kinds.items():
        assert bpb == pytest.approx(one.kinds[name], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model": {"vocab": 256}},
            "model.vocab must be 260 for a corpus with markers, .* got 256: give --model.vocab",
        ),
        (
            {"corpus": {"mix": ""}, "model": {"strides": "auto"}},
            "model.strides looks for the markers of pictures and sounds, and this corpus has none",
        ),
        ({"model": {"seq_len": 20_000}}, "the train split of text must hold one"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_before_anything_is_written(
    tmp_path: Path, mixed: Make, train: Train, change: dict[str, dict[str, object]], said: str
) -> None:
    config = mixed(tmp_path)
    for part, fields in change.items():
        config = replace(config, **{part: replace(getattr(config, part), **fields)})
    with pytest.raises(UserError, match=said):
        train(config)
    assert not (tmp_path / "runs" / "run").exists()
