"""What learns best: H2Q, QRLM and dense transformers of equal size on the same bytes with the same budget of time.

A run gets a budget of seconds, not of steps: the time of one thread's CPU, which a busy machine changes little, or of
the clock on a GPU. Step time is measured first, then the schedule is laid over the steps that fit. Each family's
learning rate is tuned alike: every rate of the grid at the first seed, the best on the validation split kept. Further
seeds run at that rate, and the test split, which decides nothing, is scored last.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from h2q.baselines import dense_of_equal_multiply_adds, dense_of_equal_parameters
from h2q.config import GrowthConfig, ModelConfig
from h2q.errors import require
from pipeline.benchmark.quality_plot import draw
from pipeline.benchmark.quality_training import learn, score
from pipeline.cluster.session import ray_session
from pipeline.config import PRESETS, CorpusConfig, RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.prepare.prepare import prepare

PUBLISHED = "H2Q, published settings"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train H2Q, QRLM (growing) and dense transformers of equal size on the same bytes with the same budget of time."""

    minutes: float = 1.5
    """Budget of one training: minutes of one CPU thread, or of a GPU. Evaluation comes on top."""
    seeds: int = 2
    """Seeds of each family."""
    families: tuple[str, ...] = ()
    """Which of them, in this order. None named: all."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Learning rates tried for each family, as multiples of the preset's; the published settings keep their own."""
    cores: int = 1
    """Cores kept free for each training, which computes with one thread: 2 on a machine of two trains one at a time."""
    points: int = 8
    """Evaluations of the validation split along a training."""
    corpus: str | None = None
    """Folder with wiki.valid.raw (train, and a tenth of it for validation) and wiki.test.raw, or any text. None: as
    training chooses, the Python manual where the hub is out of reach."""
    prepared: str = "data"
    """Folder for prepared shards."""
    model: ModelConfig = PRESETS["laptop"].model
    """The H2Q that everything else is measured by."""
    lanes: int = PRESETS["laptop"].training.lanes
    """Lanes of a batch, of every family."""
    plot: str = "benchmarks/quality.png"
    """Where the picture goes."""

    def __post_init__(self) -> None:
        require(self.minutes > 0, f"minutes must be positive, got {self.minutes}")
        require(self.seeds >= 1, f"seeds must be at least 1, got {self.seeds}")
        require(self.cores >= 1, f"cores must be at least 1, got {self.cores}")
        require(self.points >= 1, f"points must be at least 1, got {self.points}")
        require(len(self.rates) > 0 and min(self.rates) > 0, f"rates must be positive, at least one, got {self.rates}")
        require(
            self.model.kind == "hamilton" and self.model.halves,
            "model must be an H2Q, model.kind hamilton with model.halves: the other families are derived from it",
        )
        known = list(_families(self))
        unknown = sorted(set(self.families) - set(known))
        require(not unknown, f"families must be of {', '.join(known)}; got {', '.join(unknown)}")


def families(options: Options) -> dict[str, RunConfig]:
    """A run of each family that is asked for; steps, seed and learning rate are still to be set."""
    found = _families(options)
    return {name: found[name] for name in options.families or found}


def _families(options: Options) -> dict[str, RunConfig]:
    base = PRESETS["laptop"]
    h2q = replace(base, model=options.model, training=replace(base.training, lanes=options.lanes))
    published = PRESETS["h2q-published"]
    changed = ("init", "mixer", "ngrams", "feed_forward", "positions", "final_norm", "tied_embeddings", "dropout")
    twin = PRESETS["dense"].model if options.model == base.model else dense_of_equal_parameters(options.model)
    growth = GrowthConfig(enabled=True, where="ffn" if options.model.feed_forward else "all")
    return {
        "H2Q": h2q,
        "QRLM, growing": replace(h2q, model=_qrlm(options.model), growth=growth),
        "dense, equal parameters": replace(h2q, model=twin),
        "dense, equal multiply-adds": replace(h2q, model=dense_of_equal_multiply_adds(options.model)),
        PUBLISHED: replace(
            h2q,
            model=replace(options.model, **{name: getattr(published.model, name) for name in changed}),
            training=replace(published.training, lanes=options.lanes),
        ),
    }


def _qrlm(h2q: ModelConfig) -> ModelConfig:
    """QRLM with layers of the same size, on one stream: from half the rank up to the rank of H2Q."""
    return replace(
        h2q,
        dim=h2q.width,
        halves=False,
        phase_rotation=False,
        fixed_rank=max(1, h2q.fixed_rank // 2),
        max_rank=h2q.fixed_rank,
        memory="store",
    )


def run(options: Options) -> dict[str, Any]:
    """Rows: bits per byte of the test split for each family, mean and spread over seeds. Writes the plot."""
    with ray_session(verbose=False):
        corpus = prepare(CorpusConfig(path=options.corpus, prepared=options.prepared))
        runs = []
        for run in _all_runs(options, corpus):
            runs.append(run)
            test = f", test {run['test bpb']:.3f}" if "test bpb" in run else ""
            bpb = run["curve"][-1]["bpb"]
            print(f"{run['family']}: rate {run['rate']:g}, seed {run['seed']}: validation {bpb:.3f}{test}", flush=True)
    chosen = {name: [run for run in runs if run["family"] == name and "test bpb" in run] for name in families(options)}
    draw(chosen, options.plot)
    return {
        "rows": [_row(name, of_family) for name, of_family in chosen.items()],
        "plot": options.plot,
        "budget": f"{options.minutes:g} minutes {runs[0]['clock']} a run, {options.seeds} seeds",
        "corpus": corpus.manifest["name"],
        "train": f"{len(corpus.train)} bytes, sha256 {corpus.train.sha256}",
        "test": f"{len(corpus.test)} bytes, sha256 {corpus.test.sha256}",
        "runs": runs,
    }


def _row(family: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    bpb = [run["test bpb"] for run in runs]
    first = runs[0]
    return {
        "family": family,
        "parameters": first["parameters"],
        "multiply-adds": first["multiply-adds"],
        "rate": first["rate"],
        "MB seen": mean(run["bytes"] for run in runs) / 1e6,
        "seconds": mean(run["seconds"] for run in runs),
        "rank": "" if first["rank"] is None else max(run["rank"] for run in runs),
        "test bpb": mean(bpb),
        "± half the range": (max(bpb) - min(bpb)) / 2,
    }


def _all_runs(options: Options, corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Every training, as Ray has a CPU (or GPU) for it: the grid at the first seed, then the other seeds, and tests."""
    import ray

    gpu = int(ray.cluster_resources().get("GPU", 0) > 0)
    learn_there: Any = ray.remote(num_cpus=options.cores, num_gpus=gpu, num_returns=2)(learn)
    score_there: Any = ray.remote(num_cpus=options.cores, num_gpus=gpu)(score)

    def start(family: str, config: RunConfig, rate: float, seed: int) -> _Started:
        training = replace(config.training, learning_rate=rate, seed=seed)
        config = replace(config, training=training)
        result, weights = learn_there.remote(config, corpus, 60 * options.minutes, options.points)
        return _Started({"family": family, "seed": seed}, config, result, weights)

    tuning = {}
    published = PUBLISHED in families(options)
    count = (len(families(options)) - published) * (len(options.rates) + options.seeds - 1) + published * options.seeds
    print(f"{count} trainings of {options.minutes:g} minutes, one for each CPU or GPU at a time", flush=True)
    for family, config in families(options).items():
        rates = (1.0,) if family == PUBLISHED else options.rates
        tuning[family] = [start(family, config, rate * config.training.learning_rate, seed=0) for rate in rates]
    chosen = []
    for family, started in tuning.items():
        tuned: list[Any] = ray.get([run.result for run in started])
        best = min(range(len(tuned)), key=lambda number: tuned[number]["curve"][-1]["bpb"])
        seeds = [start(family, started[best].config, tuned[best]["rate"], seed) for seed in range(1, options.seeds)]
        chosen += [(run, score_there.remote(run.config, run.weights, corpus)) for run in [started[best], *seeds]]
        yield from (run.about | result for number, (run, result) in enumerate(zip(started, tuned)) if number != best)
    yield from (run.about | ray.get(run.result) | {"test bpb": ray.get(bpb)} for run, bpb in chosen)


@dataclass(frozen=True)
class _Started:
    """A training that Ray has taken on, and where its result and its weights will be."""

    about: dict[str, Any]
    config: RunConfig
    result: Any
    weights: Any
