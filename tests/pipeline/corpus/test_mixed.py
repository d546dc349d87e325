"""Laws of mixes: each kind's lanes side by side, a fixed share, and every batch a pure function of step and worker."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from h2q.alphabet import MARKERS
from h2q.errors import UserError
from pipeline.config import PRESETS, CorpusConfig, RunConfig
from pipeline.corpus.corpus import MANIFEST, Corpus, open_corpus
from pipeline.corpus.lanes import Lanes
from pipeline.corpus.mixed import MixedSplit
from pipeline.prepare.prepare import prepare, split_sizes
from pipeline.prepare.sources import check_places
from pipeline.storage.uri import DamagedFile
from pipeline.training.resets import Resets

LANES = {"text": 2, "bytes": 6}
Mix = Callable[..., CorpusConfig]


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Mix:
    """Makes the config of a mix of two kinds, documents of many lengths in three splits, in several shards."""
    folder, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for kind, letters in (("text", (97, 123)), ("bytes", (0, 256))):
        for split, count in (("train", 40), ("valid", 9), ("test", 9)):
            (folder / kind / split).mkdir(parents=True)
            for number in range(count):
                data = generator.integers(*letters, generator.integers(0, 60), dtype=np.uint8)
                (folder / kind / split / f"{number:02d}").write_bytes(data.tobytes())
    prepared = str(tmp_path_factory.mktemp("prepared"))

    def make(*kinds: str) -> CorpusConfig:
        named = ",".join(f"{kind}={folder / kind}@{LANES[kind]}" for kind in kinds)
        return CorpusConfig(mix=named, prepared=prepared, shard_bytes=300)

    return make


@pytest.fixture(scope="module")
def corpus(mix: Mix) -> Corpus:
    return prepare(mix("text", "bytes"), local=True)


def test_a_mix_is_its_corpora_end_to_end(corpus: Corpus, mix: Mix) -> None:
    config = mix("text", "bytes")
    parts = [prepare(config.of_part(part), local=True) for part in config.parts]
    for name, split in corpus.splits.items():
        alone = np.concatenate([part.splits[name].read(0, len(part.splits[name])) for part in parts])
        whole = split.read(0, len(split))
        assert whole.dtype == np.int16 and whole.tolist() == alone.tolist() and len(split) == len(alone)
        assert np.concatenate(list(split.stream())).tolist() == np.where(alone < 256, alone, 0).tolist()
        assert np.flatnonzero(whole >= 256).tolist() == split.document_starts().tolist()
        for stop in (0, 1, len(whole) // 2, len(whole)):
            assert np.flatnonzero(whole[:stop] >= 256).tolist() == split.document_starts(stop).tolist()
        for start in range(0, len(split), 97):
            for stop in (start, min(start + 200, len(split)), len(split)):
                assert split.read(start, stop).tolist() == alone[start:stop].tolist()
    assert corpus.train.documents == 80 and sum(corpus.train.histogram) == len(corpus.train)
    assert pickle.loads(pickle.dumps(corpus)).test.read(0, 9).tolist() == corpus.test.read(0, 9).tolist()
    assert split_sizes(config) == {name: len(split) for name, split in corpus.splits.items()}


@pytest.mark.parametrize("windows", ["lanes", "random"])
def test_each_kind_has_its_lanes_and_its_share_with_any_number_of_workers(
    corpus: Corpus, windows: Literal["lanes", "random"]
) -> None:
    lanes = Lanes(corpus.train, lanes=8, seq_len=16, windows=windows, seed=3)
    assert isinstance(corpus.train, MixedSplit)
    alone = [Lanes(part.split, lanes=part.lanes, seq_len=16) for part in corpus.train.parts]
    for step in (0, 1, 30, 200):
        x, y = lanes.batch(step)
        for workers in (1, 2, 4, 8):
            parts = [Lanes(corpus.train, lanes=8, seq_len=16, windows=windows, seed=3) for _ in range(workers)]
            found = [one.batch(step, rank, workers) for rank, one in enumerate(parts)]
            assert torch.equal(torch.cat([x for x, _ in found]), x) and torch.equal(torch.cat([y for _, y in found]), y)
        text, data = x[:2], x[2:]
        assert not (text == MARKERS["bytes"]).any() and not (data == MARKERS["text"]).any()
        if windows == "lanes":
            assert all(torch.equal(*pair) for pair in zip((text, data), (one.batch(step)[0] for one in alone)))


@pytest.mark.parametrize("windows", ["lanes", "random"])
def test_a_mix_of_one_kind_is_that_corpus(mix: Mix, windows: Literal["lanes", "random"]) -> None:
    config = mix("bytes")
    mixed, alone = prepare(config, local=True), prepare(config.of_part(config.parts[0]), local=True)
    one, other = (Lanes(split, lanes=6, seq_len=16, windows=windows) for split in (mixed.train, alone.train))
    for step in (0, 7, 100):
        assert np.array_equal(one.rows(step), other.rows(step))


def run_over(config: CorpusConfig) -> RunConfig:
    laptop = PRESETS["laptop"]
    training = replace(laptop.training, lanes=8, reset_at="document", cold_starts=0.0)
    return replace(laptop, corpus=config, training=training, model=replace(laptop.model, vocab=260, seq_len=16))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_state_is_forgotten_where_documents_and_lanes_begin_in_every_kind(
    corpus: Corpus, mix: Mix, workers: int
) -> None:
    lanes, run = Lanes(corpus.train, lanes=8, seq_len=16), run_over(mix("text", "bytes"))
    resets = [Resets(corpus.train, run, world_rank=rank, world_size=workers) for rank in range(workers)]
    begun = set()
    for step in range(40):
        x = lanes.batch(step)[0].numpy()
        each = [one(step) for one in resets]
        found = np.concatenate([np.zeros((8 // workers, 16), bool) if one is None else one for one in each])
        assert found[x >= 256].all(), "every marker is a beginning"
        others = found & (x < 256)  # where a lane begins in the middle of a document
        begun |= {lane for lane, row in enumerate(others) if row.any()}
        assert others.sum(1).max() <= 1
    assert 4 <= len(begun) <= 8


def test_a_mix_is_found_again_and_any_mix_has_the_same_parts(corpus: Corpus, mix: Mix) -> None:
    told: list[str] = []
    again = prepare(mix("text", "bytes"), local=True, on_event=lambda event: told.append(event.text))
    assert again.folder == corpus.folder and again.sha256 == corpus.sha256
    assert len(told) == 2 and all("already prepared" in text for text in told)
    turned = prepare(mix("bytes", "text"), local=True)
    assert turned.folder != corpus.folder and turned.sha256 == corpus.sha256, "the same content"
    assert {part.corpus.folder for part in turned.parts} == {part.corpus.folder for part in corpus.parts}
    assert "text: 2 lanes, files at text, sha256" in corpus.notes[0]
    assert f"--corpus.mix text={mix('text').parts[0].where}@2,bytes=" in corpus.manifest["command"]


def test_ray_mixes_as_a_plain_loop_does(corpus: Corpus, mix: Mix, tmp_path: Path, ray_cluster: None) -> None:
    assert prepare(replace(mix("text", "bytes"), prepared=str(tmp_path))).sha256 == corpus.sha256


def test_a_part_that_is_gone_or_another_now_is_one_line(corpus: Corpus, mix: Mix, tmp_path: Path) -> None:
    config = replace(mix("text", "bytes"), prepared=str(tmp_path))
    made = prepare(config, local=True)
    text = made.parts[0].corpus.folder / MANIFEST
    kept = json.loads(text.read_bytes())
    text.write_bytes(json.dumps(kept | {"sha256": "0" * 64}).encode())
    with pytest.raises(UserError, match=r"the text part of .* must have sha256 .*, found 0000000000000000 \(text\)"):
        open_corpus(made.folder)
    text.unlink()
    with pytest.raises(UserError, match=r"no prepared corpus is at .*: run python jobs/prepare.py"):
        open_corpus(made.folder)
    mixed = made.folder / MANIFEST
    mixed.write_bytes(mixed.read_bytes().replace(b'"lanes": 6', b'"lanes": 0'))
    with pytest.raises(DamagedFile, match=r"parts.1.lanes should be greater than or equal to 1"):
        open_corpus(made.folder)


def test_a_mix_whose_manifest_names_other_parts_is_written_again(corpus: Corpus, mix: Mix, tmp_path: Path) -> None:
    config = replace(mix("text", "bytes"), prepared=str(tmp_path))
    made = prepare(config, local=True)
    manifest = made.folder / MANIFEST
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(made.parts[0].corpus.folder.name.encode(), b"gone"))
    with pytest.raises(UserError, match=r"no prepared corpus is at .*gone: run python jobs/prepare.py"):
        open_corpus(made.folder)
    assert prepare(config, local=True).sha256 == made.sha256 and manifest.read_bytes() == whole


def test_a_mistake_in_a_part_names_it_and_its_option(mix: Mix, tmp_path: Path) -> None:
    nowhere = CorpusConfig(mix="text=nowhere@1,bytes=there@1", prepared=str(tmp_path))
    for look in (prepare, check_places):
        with pytest.raises(UserError, match=r"^text in corpus.mix: nothing is at .*nowhere.*give --corpus.mix text="):
            look(nowhere)


def test_a_kind_that_is_too_short_for_its_lanes_is_named(corpus: Corpus) -> None:
    with pytest.raises(UserError, match=r"the train split of text must hold one chunk of seq_len \+ 1 bytes for every"):
        Lanes(corpus.train, lanes=8, seq_len=1000)
