"""What a mixer is worth: attention, relative positions, the state and its rotation, after the same CPU time.

One thread, one training after another, all with one recipe; every test split is scored with the state carried through
it and with the state reset in each window. All first seeds come before all second ones.
"""

from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from h2q.config import ModelConfig
from h2q.errors import require
from pipeline.benchmark.quality_training import learn, score
from pipeline.config import CorpusConfig, RunConfig, TrainingConfig
from pipeline.corpus.corpus import Corpus
from pipeline.prepare.prepare import prepare

SIZES = ModelConfig(dim=256, depth=4, heads=4, factor=32, fixed_rank=4, dropout=0.0)
"""H2Q of 0.2 M parameters; a factor is a quarter of the width."""

RECIPE = TrainingConfig(steps=100, warmup=10, lanes=8, learning_rate=5e-3, factor_lr=0.5, beta2=0.99)
"""Of all mixers. Steps are what the budget allows; the warm-up keeps its share of them."""

MIXERS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "relative positions": {"positions": "relative"},
    "state": {"mixer": "state"},
    "state, phases": {"mixer": "state", "rotation": "phase"},
    "state, quaternions": {"mixer": "state", "rotation": "quaternion"},
    "both, 3 blocks": {"mixer": "both", "depth": 3},
}
"""What each changes in the model. The first two attend; with both, blocks of the same size are larger."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a small H2Q with each mixer for the same CPU time; bits per byte of the test split, with the state carried
    and reset."""

    mixers: tuple[str, ...] = tuple(MIXERS)
    """Which of them, in this order."""
    minutes: float = 140 / 60
    """Budget of one training: minutes of one CPU thread. Evaluation comes on top."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of each mixer."""
    corpus: str | None = None
    """Folder with wiki.valid.raw (train, and a tenth of it for validation) and wiki.test.raw, or any text. None: as
    training chooses, the Python manual where the hub is out of reach."""
    prepared: str = "data"
    """Folder for prepared shards."""
    model: ModelConfig = SIZES
    """Sizes of the model."""
    training: TrainingConfig = RECIPE
    """The recipe; `steps` and `warmup` say only what share of the steps the warm-up takes."""
    test: bool = True
    """Score the test split, too; else the validation split alone."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.mixers) - set(MIXERS))
        require(not unknown, f"mixers must be of {', '.join(MIXERS)}; got {', '.join(unknown)}")
        require(len(self.mixers) >= 1 and len(self.seeds) >= 1, "mixers and seeds must name at least one each")
        require(self.minutes > 0, f"minutes must be positive, got {self.minutes}")


def run(options: Options) -> dict[str, Any]:
    """Rows: a mixer each, bits per byte as the mean over seeds with half their range."""
    corpus = prepare(CorpusConfig(path=options.corpus, prepared=options.prepared), local=True)
    runs = []
    for seed in options.seeds:
        for name in options.mixers:
            runs.append({"mixer": name, "seed": seed} | one(name, seed, corpus, options))
            told = {key: value for key, value in runs[-1].items() if key not in ("curve", "model")}
            print(told, flush=True)
    return {
        "rows": [_row(name, [run for run in runs if run["mixer"] == name]) for name in options.mixers],
        "budget": f"{60 * options.minutes:g} seconds of one CPU thread a run, seeds {options.seeds}",
        "recipe": options.training.to_dict(),
        "corpus": corpus.manifest["name"],
        "train": f"{len(corpus.train)} bytes, sha256 {corpus.train.sha256}",
        "test": f"{len(corpus.test)} bytes, sha256 {corpus.test.sha256}",
        "runs": runs,
    }


def one(name: str, seed: int, corpus: Corpus, options: Options) -> dict[str, Any]:
    """One training and its scores."""
    config = RunConfig(
        model=replace(options.model, **MIXERS[name]), training=replace(options.training, seed=seed), local=True
    )
    result, weights = learn(config, corpus, 60 * options.minutes, points=1)
    scores = {"carried": True} | ({"reset": False} if config.model.carries else {}) if options.test else {}
    return (
        result
        | {"validation": result["curve"][-1]["bpb"]}
        | {told: score(config, weights, corpus, carry=carry) for told, carry in scores.items()}
    )


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    row = {
        "mixer": name,
        "parameters": runs[0]["parameters"],
        "multiply-adds": runs[0]["multiply-adds"],
        "MB seen": mean(run["bytes"] for run in runs) / 1e6,
        "ms a step": 1e3 * mean(run["seconds"] / run["steps"] for run in runs),
    }
    for told in ("validation", "carried", "reset"):
        bpb = [run[told] for run in runs if told in run]
        row |= {told: f"{mean(bpb):.3f} ± {(max(bpb) - min(bpb)) / 2:.3f}" if bpb else ""}
    return row
