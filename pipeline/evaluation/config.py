"""What is to be evaluated, and how. Imports nothing heavy: `--help` must be quick."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from h2q.errors import require
from pipeline.config import PRESETS, TrackingConfig

Mode = Literal["carried", "sliding", "lanes", "prequential"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Bits per byte of a trained run over a whole split or file, every byte scored once, beside what general
    compressors need for the very same bytes."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ""
    """A run: its name or folder, its MLflow id, a registered model, `latest`, or `best`."""
    split: Literal["train", "validation", "test"] = "test"
    """Which split of the run's corpus."""
    data: str | None = None
    """A file to score instead, as it is, byte for byte."""
    mode: Mode | None = None
    """`carried`: a state is carried through the data; `sliding`: a window slides over it; `lanes`: lanes read side by
    side, window by window; `prequential`: score the next chunk, then train on it, once through the data: the code
    length of an online learner. None: `carried` for a model with a state, which the windows of the others reset, unless
    a window or a stride is given; else `sliding`."""
    window: int | None = None
    """Bytes of context at most, any number for a model without positions. None: those of a chunk of its training."""
    stride: int | None = None
    """Bytes by which the window advances: less gives every byte more context, for more time. None: half the window if
    it slides, else the window (side by side, as training evaluates)."""
    lanes: int | None = None
    """Lanes read side by side (carried: streams that start cold, for as many workers). None: as the run trained
    (carried: 1; sliding: always 1; new weights: 4)."""
    preset: str | None = None
    """Prequential: start from new weights of this preset, instead of a run."""
    fresh: bool = False
    """Prequential: start from new weights of the run's own config."""
    learning_rate: float | None = None
    """Prequential: the learning rate, constant. None: the run's last one; for new weights its peak, after its
    warm-up."""
    updates: int | None = None
    """Prequential: optimizer steps for a chunk: on the chunk itself, and the others on chunks drawn from those before,
    which are known to a decoder as well. None: 1 for a run, 2 for new weights."""
    workers: int | None = None
    """Processes that share the data, by Ray Data. None: as many as there are GPUs, or else CPUs. The result does not
    depend on their number."""
    local: bool = False
    """Score in this process, without Ray."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """A GPU for each worker; `auto`: if there is one."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None
    """Arithmetic of matrix products. None: as the run trained."""
    threads: int | None = None
    """CPU threads of each process; a figure's last digits may depend on them. None: 1, and for prequential all."""
    compressors: bool = True
    """Compress the same bytes for comparison."""
    output: str | None = None
    """Folder for the JSON and the picture. None: evaluation/ in the folder of the run, or evaluations/ here."""
    storage: str = "runs"
    """Folder that holds the folders of runs."""
    verbose: bool = False
    """Show the messages of Ray and its workers."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def here(self) -> bool:
        """Whether this process scores, where no others could help it."""
        return self.local or self.mode == "prequential" or (self.mode == "carried" and self.lanes in (None, 1))

    def __post_init__(self) -> None:
        for name in ("window", "stride", "lanes", "updates", "workers", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        require(
            self.stride is None or self.window is None or self.stride <= self.window,
            f"stride must be at most the window's {self.window} bytes, got {self.stride}",
        )
        require(
            not self.local or self.workers in (None, 1),
            f"local scores in this one process: workers must be 1, got {self.workers}",
        )
        require(
            self.mode != "sliding" or self.lanes in (None, 1),
            f"one window slides over the data: lanes must be 1, got {self.lanes}; use --mode lanes",
        )
        require(
            self.mode != "carried" or (self.window is None and self.stride is None),
            f"a state is carried through all that came before: leave out --window and --stride, got {self.window} and "
            f"{self.stride}; or reset it in each window, with --mode sliding",
        )
        require(
            self.mode != "carried" or self.workers in (None, 1) or (self.lanes or 1) > 1,
            f"one stream is scored by one worker: workers must be 1, got {self.workers}; cut it with --lanes",
        )
        require(
            self.preset is None or self.preset in PRESETS,
            f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}",
        )
        learns = self.mode == "prequential"
        for name in ("preset", "fresh", "learning_rate", "updates"):
            require(learns or not getattr(self, name), f"{name} is for a model that learns: add --mode prequential")
        require(
            self.learning_rate is None or self.learning_rate > 0,
            f"learning_rate must be positive, got {self.learning_rate}",
        )
        require(
            not learns or self.workers in (None, 1),
            f"prequential is one learner in this process: workers must be 1, got {self.workers}",
        )
        require(
            self.preset is None or self.run == "",
            f"a fresh model of a preset needs no run, got {self.run}: leave it out",
        )
        require(
            self.preset is None or self.data is not None,
            "a fresh model of a preset needs the data it is to learn: give --data FILE",
        )
