"""A run as one frozen value, and the presets. Imports nothing heavy: `--help` must be quick."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import tyro

from h2q.alphabet import ALPHABET, Kind
from h2q.config import BoundProjector, FromDict, GrowthConfig, ModelConfig
from h2q.errors import UserError, require
from h2q.layers import growing
from pipeline.mix import EMBEDDED, HUB, Part, read_mix

RUN_WORDS = ("latest", "best")
"""What stands for a run without being its name."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(FromDict):
    """The corpus: where bytes come from and how they are cut."""

    source: Literal["auto", "wikitext", "hub", "manual", "path", "embedded"] = "auto"
    """`wikitext`: WikiText-2 raw from the Hugging Face hub; `hub`: any data set of the hub; `manual`: the Python
    reference manual, part of Python; `path`: files; `embedded`: what needs no file, of text the manual; `auto`: path or
    hub where one is given, else wikitext, else (hub out of reach) the manual, and of pictures and sounds `embedded`."""
    path: str | None = None
    """A folder with wiki.train.raw, wiki.valid.raw, wiki.test.raw, or a file, folder or glob, of text or of Parquet,
    JSONL or CSV tables; a local path or a URI (s3://, gs://, hdfs://)."""
    hub: str | None = None
    """A data set of the hub as NAME[:CONFIG][@REVISION]."""
    kind: Kind = "text"
    """`text`: UTF-8, checked, and tables by their text column; `bytes`: any files as they are; `image`, `audio`: pixels
    and samples of any format that Pillow and soundfile read, each file a document behind a marker and a header."""
    samples: Literal["ulaw", "pcm16"] = "ulaw"
    """What a sample of a sound becomes: a byte of µ-law (8 bits), or the two of 16-bit PCM."""
    mix: str = ""
    """Several kinds of documents side by side, each a corpus of its own with a fixed share of the lanes, as
    KIND=WHERE@LANES with commas between, like text=FOLDER@16,image=hub:NAME@4,audio=embedded@4; WHERE is a path or URI,
    hub:NAME[:CONFIG][@REVISION], or `embedded`. `training.lanes` is the sum."""
    markers: bool = False
    """Put a marker of its kind before every document, which tells the model where one begins and of what kind it is
    (needs `--model.vocab 260`)."""
    column: str = "text"
    """The text column of a table or of a data set of the hub; of pictures and sounds `image` and `audio` unless
    given."""
    separator: str = ""
    """Text put after every row of a table; `\\n` is a newline, `\\t` a tab, `\\\\` a backslash."""
    invalid: Literal["error", "keep", "replace"] = "error"
    """Text that is not valid UTF-8: an error naming file and offset, kept as it is, or replaced by U+FFFD."""
    holdout: float = 0.1
    """Share of the bytes that each of validation and test gets where the corpus does not bring that split."""
    seed: int = 0
    """Seed of the choice of documents for the splits that are cut."""
    prepared: str = "data"
    """Folder (or URI) for prepared shards, one subfolder for each corpus."""
    shard_bytes: int = 1 << 26
    """Bytes of a shard."""
    verify: Literal["first", "always"] = "first"
    """Check the sha256 of a shard on its first use (remembered by size and time of change), or at every use."""
    cache: str = "~/.cache/h2q/shards"
    """Folder that keeps shards of a URI on a node's own disk, shared by its workers."""
    cache_bytes: int = 50_000_000_000
    """Largest size of that folder."""

    def __post_init__(self) -> None:
        require(
            self.source != "path" or self.path is not None,
            "corpus.source path needs a folder or file: give --corpus.path PATH",
        )
        require(
            self.source != "hub" or self.hub is not None, "corpus.source hub needs a data set: give --corpus.hub NAME"
        )
        require(self.path is None or self.path != "", "corpus.path must not be empty: give --corpus.path PATH")
        require(
            self.path is None or self.hub is None,
            f"corpus.path and corpus.hub exclude each other, got {self.path} and {self.hub}",
        )
        require(
            self.source in ("auto", "hub", "path", "embedded") or not self.whole,
            f"corpus.source {self.source} is text, got corpus.kind {self.kind}: leave out one of them",
        )
        require(
            self.source != "embedded" or self.kind != "bytes",
            "corpus.source embedded has nothing of kind bytes: give --corpus.path PATH",
        )
        for name in ("path", "hub", "source", "kind") if self.mix else ():
            value = getattr(self, name)
            require(
                value == getattr(CorpusConfig, name),
                f"corpus.mix says of each kind where it is from: leave out --corpus.{name}, got {value}, or give "
                "--corpus.mix '' for one corpus alone",
            )
        _ = self.parts
        self.require_finite("corpus.")
        _ = self.row_end
        require(0 <= self.holdout < 0.5, f"corpus.holdout must be at least 0 and below 0.5, got {self.holdout}")
        require(0 <= self.seed < 2**63, f"corpus.seed must be at least 0 and below 2^63, got {self.seed}")
        require(
            1 <= self.shard_bytes <= 1 << 31,
            f"corpus.shard_bytes must be 1 to {1 << 31}, since a whole shard is held in memory, got {self.shard_bytes}",
        )
        require(self.cache_bytes >= 1, f"corpus.cache_bytes must be at least 1, got {self.cache_bytes}")

    @property
    def whole(self) -> bool:
        """Whether documents mean nothing in part, as pictures and sounds do: they are never cut, and always marked."""
        return self.kind in ("image", "audio")

    @property
    def marked(self) -> bool:
        """Whether documents begin with markers."""
        return self.markers or self.whole or bool(self.mix)

    @property
    def named_column(self) -> str:
        """The column of a table: of pictures and sounds named like their kind, unless it was given."""
        return self.kind if self.whole and self.column == "text" else self.column

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those of the mix; none of one corpus."""
        return read_mix(self.mix)

    def of_part(self, part: Part) -> Self:
        """The corpus that is a part of the mix, alone."""
        alone = replace(self, mix="", kind=part.kind, markers=True)
        if part.where == EMBEDDED:
            return replace(alone, source=EMBEDDED)
        if part.where.startswith(HUB):
            return replace(alone, source="hub", hub=part.where.removeprefix(HUB))
        return replace(alone, source="path", path=part.where)

    @property
    def row_end(self) -> str:
        """The separator with its escapes read. Raises: UserError for an escape that says nothing."""
        try:
            text = self.separator.encode("latin-1", "backslashreplace").decode("unicode_escape")
            text.encode()
            return text
        except UnicodeError as error:
            raise UserError(
                f"corpus.separator must be text, with \\n for a newline, got {self.separator!r} ({error})"
            ) from None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(FromDict):
    """Optimization: batches, objective, optimizer and schedule."""

    steps: int = 2000
    """Optimizer steps of the whole run."""
    lanes: int = 24
    """Lanes L: rows of the global batch, whatever the number of workers."""
    windows: Literal["lanes", "random"] = "lanes"
    """`lanes`: read every lane in order (H2Q); `random`: fresh windows for each step (QRLM)."""
    horizon: int = 1
    """With a state: chunks of a step, through all of which gradients run back. More cost memory, and make steps
    larger."""
    cold_starts: float = 0.05
    """With a state: share of the steps of a lane that forget it first, so that the model can begin anywhere."""
    reset_at: Literal["never", "document"] = "never"
    """With a state: where lanes forget it besides: nowhere, or where a document begins."""
    learning_rate: float = 6e-4
    """AdamW's peak learning rate."""
    bank_lr: float = 1.0
    """Factor on the learning rate of the structure bank, which moves every layer at once."""
    factor_lr: float = 1.0
    """Factor on the learning rate of the layers' own factors."""
    embedding_lr: float = 1.0
    """Factor on the learning rate of the embeddings of bytes and positions."""
    table_lr: float = 1.0
    """Factor on the learning rate of the tables of n-grams, most rows of which a step does not see."""
    weight_decay: float = 0.02
    """AdamW's weight decay, of the structure bank, the layers' factors and weight matrices only."""
    table_decay: float = 0.0
    """AdamW's weight decay of the tables of n-grams."""
    beta2: float = 0.95
    """AdamW's decay of the second moment."""
    warmup: int = 100
    """Steps over which the learning rate rises linearly; of a short run at most a third."""
    schedule: Literal["cosine", "constant", "warm-down"] = "cosine"
    """Learning rate after the warm-up: cosine to `floor` at the last step, or constant. Where a resume changes `steps`,
    cosine goes on along the curve of the new number, which can be higher; `warm-down` goes from the rate so far down to
    `floor` of it at the last step (a new run: as cosine)."""
    floor: float = 0.1
    """Share of the peak learning rate that is left at the last step."""
    clip: float = 1.0
    """Largest global gradient norm."""
    axiom_lambda: float = 0.1
    """Weight λ of the axiom loss: objective = cross-entropy + 0.01 λ axiom."""
    independence_lambda: float = 0.0
    """Weight of the penalty on dependence between the components of a layer, on the same scale."""
    seed: int = 0
    """Seed of initialisation, dropout and random windows."""
    log_every: int = 10
    """Steps between logged metrics."""
    evaluate_every: int = 500
    """Steps between evaluations of the whole validation split."""
    evaluate_bytes: int | None = None
    """Score only so many bytes of a split, its first ones, for a short trial. None: all of it."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints to keep, beside the best one."""
    skip_limit: int = 10
    """Steps in a row that may be skipped for a gradient that is not finite; then back to the last checkpoint."""
    rollback_limit: int = 3
    """How often a run may go back to a checkpoint, each time with half the learning rate, before it ends."""

    def scored(self, size: int) -> int:
        """How many bytes of a split of `size` an evaluation scores."""
        return min(size, self.evaluate_bytes or size)

    def __post_init__(self) -> None:
        self.require_finite("training.")
        for name in ("steps", "lanes", "log_every", "evaluate_every", "save_every", "keep", "skip_limit"):
            require(getattr(self, name) >= 1, f"training.{name} must be at least 1, got {getattr(self, name)}")
        require(
            self.evaluate_bytes is None or self.evaluate_bytes >= 2,
            f"training.evaluate_bytes must be at least 2, got {self.evaluate_bytes}",
        )
        for name in (
            "warmup",
            "weight_decay",
            "table_decay",
            "axiom_lambda",
            "independence_lambda",
            "rollback_limit",
        ):
            require(getattr(self, name) >= 0, f"training.{name} must be at least 0, got {getattr(self, name)}")
        require(0 <= self.seed < 2**64, f"training.seed must be at least 0 and below 2^64, got {self.seed}")
        for name in ("learning_rate", "bank_lr", "factor_lr", "embedding_lr", "table_lr", "clip"):
            require(getattr(self, name) > 0, f"training.{name} must be positive, got {getattr(self, name)}")
        require(self.horizon >= 1, f"training.horizon must be at least 1 chunk, got {self.horizon}")
        require(0 <= self.cold_starts <= 1, f"training.cold_starts must be a share from 0 to 1, got {self.cold_starts}")
        require(0 <= self.floor <= 1, f"training.floor must be a share from 0 to 1, got {self.floor}")
        require(0 <= self.beta2 < 1, f"training.beta2 must be at least 0 and below 1, got {self.beta2}")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(FromDict):
    """Tracking: where MLflow keeps metrics and artifacts."""

    uri: str | None = None
    """MLflow tracking URI. None: MLFLOW_TRACKING_URI if set, else sqlite:///<working directory>/mlflow.db."""
    experiment: str = "h2q"
    """MLflow experiment."""
    enabled: bool = True
    """Track at all."""
    register: str | None = None
    """Register the best model of a finished run under this name in MLflow's model registry; of an export, with its
    file."""

    def __post_init__(self) -> None:
        name = self.register
        require(
            name is None or (bool(name.strip()) and not set(name) & set("/:'\"")),
            f"tracking.register must be a name without / : or quotes, got {name!r}",
        )
        require(
            name is None or self.enabled, f"tracking.register {name} needs tracking: leave out --tracking.no-enabled"
        )


_LONGEST_NAME = 255
"""Bytes of a file's name, on any file system that matters."""


def _is_folder_name(text: str) -> bool:
    # What is printable can be encoded as UTF-8, too.
    plain = text.isprintable() and not set(text) & set("/\\") and not text.startswith(".")
    return plain and 1 <= len(text.encode()) <= _LONGEST_NAME


@dataclass(frozen=True, kw_only=True)
class RunConfig(FromDict):
    """One training run."""

    name: str | None = None
    """Name of the run and of its folder. None: the preset and the time of the start."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""
    workers: int = 1
    """Training processes. The global batch is the same whatever their number."""
    local: bool = False
    """Train in this process, without a Ray cluster, on the GPU if there is one."""
    address: str | None = None
    """The Ray cluster to train on: HOST:PORT, or `auto` for the one that runs on this machine. None: the one that
    RAY_ADDRESS names (`ray job submit` sets it), else a Ray of this machine that ends with the run."""
    wait: int = 0
    """Seconds to wait until a cluster that grows by itself has the CPUs and GPUs that the workers need."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """A GPU for each worker; `auto`: if there is one."""
    threads: int | None = None
    """CPU threads of each worker. None: one for each core that it has, or OMP_NUM_THREADS if that is less. The last
    bits of a result depend on them, so a run keeps its number when it is resumed."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] = "fp32"
    """Arithmetic of matrix products; parameters and the residual stream stay in float32. On a CPU without AVX-512 bf16
    is several times slower than fp32; `auto` measures that where the run begins, and the run keeps what it found.
    Sweeps, studies, projectors and Python begin with fp32."""
    graph: Literal["auto", "yes", "no"] = "auto"
    """Launch a whole training step on a GPU as one CUDA graph, several times as fast for models of this size; `auto`:
    where that can be, which is with one worker."""
    accumulate: int = 1
    """Micro-batches to a step: the global batch is cut into so many parts, for less memory."""
    retries: int = 0
    """How often Ray starts the workers again after one was lost; they go on from the newest valid checkpoint."""
    timeout: int = 600
    """Seconds after which a worker that does not answer counts as lost, as one that was killed does."""
    config: str | None = None
    """The config.json of a run, or its folder: its options are the defaults of this one."""
    init_from: str | None = None
    """Begin with the weights of a run (its name or folder, an MLflow id, a registered model, `latest`, `best`), or of
    one of its checkpoints: with its model, another corpus and a new optimizer."""
    resume: bool = False
    """Continue the run `name` (None: the newest run) from its newest valid checkpoint."""
    estimate: bool = False
    """Print what the run would need in memory and time, from a few small steps here, and exit."""
    profile: int = 0
    """Write what host and device do in so many steps, soon after the start, as a trace into the run's folder
    `profile`."""
    verbose: bool = False
    """Show the messages of Ray and its workers."""
    model: ModelConfig = field(default_factory=ModelConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    projector: Annotated[BoundProjector | None, tyro.conf.Suppress] = None
    """What `jobs/project.py` trains: a projector, whose decoder `model` is. None: a model of the corpus."""

    @property
    def chunk(self) -> int:
        """Bytes of a lane in a step."""
        return self.training.horizon * self.model.seq_len

    @property
    def ahead(self) -> int:
        """Bytes behind a lane's chunk that a step looks at: the targets are one byte further."""
        return 1 if self.projector is None else self.projector.next

    @property
    def carries(self) -> bool:
        """Whether lanes carry a state from step to step: the model's, or that of the core which a projector reads."""
        return self.model.carries or self.projector is not None

    @property
    def bytes_per_step(self) -> int:
        """Bytes of the global batch."""
        return self.training.lanes * self.chunk

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"workers must be at least 1, got {self.workers}")
        require(self.threads is None or self.threads >= 1, f"threads must be at least 1, got {self.threads}")
        require(self.retries >= 0, f"retries must be at least 0, got {self.retries}")
        require(self.timeout >= 1, f"timeout must be at least 1 second, got {self.timeout}")
        require(self.wait >= 0, f"wait must be at least 0 seconds, got {self.wait}")
        require(self.profile >= 0, f"profile must be at least 0 steps, got {self.profile}")
        require(
            not self.local or self.address is None,
            f"local trains in this one process: leave out --address, got {self.address}",
        )
        require(self.accumulate >= 1, f"accumulate must be at least 1, got {self.accumulate}")
        require(
            not self.local or self.workers == 1,
            f"local trains in this one process: workers must be 1, got {self.workers}",
        )
        self._check_projector()
        self._check_mix()
        require(
            self.training.lanes % (self.workers * self.accumulate) == 0,
            f"training.lanes must be a multiple of workers × accumulate = {self.workers * self.accumulate}, "
            f"got {self.training.lanes}",
        )
        require(
            self.name is None or _is_folder_name(self.name),
            f"name must be a plain folder name: 1 to {_LONGEST_NAME} bytes of printable UTF-8, no / or \\, no dot "
            f"before it, got {reprlib.repr(self.name)}",
        )
        for name, off in (("horizon", 1), ("reset_at", "never")):
            value = getattr(self.training, name)
            require(
                value == off or self.carries,
                f"training.{name} {value} is about a state, and model.mixer {self.model.mixer} carries none: use "
                "--model.mixer state",
            )
        require(
            self.name not in RUN_WORDS,
            f"name must not be {' or '.join(RUN_WORDS)}, which mean the newest run and the best, got {self.name}",
        )
        require(
            not self.growth.enabled or self.model.kind in growing(),
            f"growth.enabled needs layers with ranks: model.kind one of {', '.join(growing())}, got {self.model.kind}",
        )
        require(
            not self.growth.enabled or self.model.feed_forward or self.growth.where == "all",
            "growth.where ffn grows feed-forward layers, and the model has none: use --growth.where all",
        )
        require(
            not self.growth.enabled or self.model.storage_rank > self.model.fixed_rank,
            f"growth.enabled needs model.max_rank above model.fixed_rank = {self.model.fixed_rank}, "
            f"got {self.model.max_rank}",
        )

    def _check_mix(self) -> None:
        lanes = [part.lanes for part in self.corpus.parts]
        require(
            not lanes or self.training.lanes == sum(lanes),
            f"training.lanes must be the sum of the lanes in corpus.mix, {' + '.join(map(str, lanes))} = {sum(lanes)}, "
            f"got {self.training.lanes}: give --training.lanes {sum(lanes)}",
        )

    def _check_projector(self) -> None:
        if self.projector is None:
            return
        require(
            self.projector.last <= self.model.seq_len,
            f"projector.last must be at most model.seq_len = {self.model.seq_len}, got {self.projector.last}: give "
            f"--model.seq-len {self.projector.last}",
        )
        for name, off in (
            ("accumulate", self.accumulate == 1),
            ("growth.enabled", not self.growth.enabled),
            ("init_from", self.init_from is None),
            ("graph yes", self.graph != "yes"),
        ):
            require(off, f"{name} is not for a projector: leave it out")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        parts = {
            "model": ModelConfig,
            "corpus": CorpusConfig,
            "training": TrainingConfig,
            "growth": GrowthConfig,
            "tracking": TrackingConfig,
            "projector": BoundProjector,
        }
        return super().from_dict(
            {
                name: parts[name].from_dict(value) if name in parts and value is not None else value
                for name, value in values.items()
            }
        )


PUBLISHED_SIZES = ModelConfig(dropout=0.0)
"""H2Q at its published sizes, with attention: what the benchmarks of speed and memory measure."""

_PUBLISHED_H2Q = ModelConfig(
    init="published",
    positions="random",
    final_norm=False,
    tied_embeddings=False,
)

_LAPTOP_RECIPE = TrainingConfig(
    steps=2000,
    lanes=8,
    learning_rate=5e-3,
    factor_lr=0.5,
    embedding_lr=2.0,
    table_lr=6.0,
    table_decay=0.1,
    beta2=0.99,
    warmup=200,
    floor=0.02,
    axiom_lambda=0.0,
    log_every=40,
    evaluate_every=500,
    save_every=500,
)

PRESETS: dict[str, RunConfig] = {
    "laptop": RunConfig(
        model=ModelConfig(
            mixer="state",
            ngrams="2:2048x8,3:4096x8,4:6144x8,5:4096x8",
            feed_forward=False,
            dim=192,
            depth=2,
            heads=4,
            factor=24,
            fixed_rank=4,
            dropout=0.0,
        ),
        growth=GrowthConfig(where="all"),
        training=_LAPTOP_RECIPE,
    ),
    "dense": RunConfig(
        model=ModelConfig(
            kind="dense",
            mixer="state",
            ngrams="2:1024x16,3:2048x16,4:2048x16",
            dim=64,
            depth=2,
            heads=4,
            halves=False,
            phase_rotation=False,
            ffn_expansion=4,
            dropout=0.0,
        ),
        training=_LAPTOP_RECIPE,
    ),
    "senses": RunConfig(
        model=ModelConfig(
            mixer="state",
            ngrams="2:4096x8,3:8192x8,4:8192x8,5:8192x8",
            strides="auto",
            vocab=ALPHABET,
            feed_forward=False,
            dim=192,
            depth=2,
            heads=4,
            factor=24,
            fixed_rank=4,
            dropout=0.0,
        ),
        corpus=CorpusConfig(mix="text=embedded@16,image=embedded@4,audio=embedded@4"),
        # A state that is forgotten within a picture has lost its width, too: no cold starts.
        training=replace(_LAPTOP_RECIPE, steps=1000, lanes=24, warmup=100, cold_starts=0.0, reset_at="document"),
    ),
    "h2q": RunConfig(
        model=ModelConfig(mixer="state", ngrams="2:4096x8,3:8192x8,4:8192x8,5:8192x8", feed_forward=False, dropout=0.0),
        growth=GrowthConfig(where="all"),
        training=replace(_LAPTOP_RECIPE, steps=200_000, lanes=24, learning_rate=3e-3, warmup=1000, log_every=10),
    ),
    "qrlm": RunConfig(
        model=ModelConfig(
            dim=1024,
            depth=8,
            seq_len=256,
            halves=False,
            phase_rotation=False,
            max_rank=64,
        ),
        training=TrainingConfig(
            steps=100_000, lanes=192, windows="random", learning_rate=1.2e-3, warmup=1000, axiom_lambda=0.05
        ),
        accumulate=4,
        growth=GrowthConfig(enabled=True),
    ),
}
PRESETS["h2q-published"] = RunConfig(
    model=_PUBLISHED_H2Q,
    training=TrainingConfig(steps=200_000, warmup=0, schedule="constant"),
)

_PRESET_HELP = {
    "laptop": "a small H2Q with a state and tables of n-grams: minutes on two cores (the default)",
    "dense": "ordinary weight matrices instead, as many parameters, the same mixer and rates, other tables",
    "senses": "text, pictures and sounds in one stream, from what is installed: minutes on two cores",
    "h2q": "H2Q at its published width, depth and rank, with the state, tables and recipe of laptop, at a lower rate",
    "qrlm": "QRLM at its published sizes, with dynamic rank growth",
    "h2q-published": "H2Q with attention, and the published initialisation, schedule and no final norm",
}


def new_run(preset: str) -> RunConfig:
    """What options of a new run go over: the preset, in the faster precision of the machine."""
    return replace(PRESETS[preset], precision="auto")


def split_preset(args: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The preset that a command line begins with, if any, and its options. Raises: UserError if there is none of that
    name."""
    if not args or args[0].startswith("-"):
        return None, args
    require(args[0] in PRESETS, f"preset must be one of {', '.join(PRESETS)}, got {args[0]!r}")
    return args[0], args[1:]


def describe_presets() -> str:
    """A line for each preset."""
    return "\n\n".join(f"{name}: {_PRESET_HELP[name]}" for name in PRESETS)
