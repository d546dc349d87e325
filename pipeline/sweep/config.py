"""A sweep as one frozen value: what is searched and how, beside the options of every trial. Imports nothing heavy."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from tyro.conf import arg

from h2q.config import FromDict
from h2q.errors import require
from pipeline.config import RunConfig

DEFAULT_SPACE = ("model.fixed_rank=1,2,4,8", "training.axiom_lambda=log:1e-3:1", "growth.threshold=uniform:0.95:0.999")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(FromDict):
    """The search: what is varied, how values are chosen, and when a trial is stopped early."""

    space: tuple[str, ...] = DEFAULT_SPACE
    """Fields to search, as FIELD=VALUE,VALUE,… or FIELD=uniform:LOW:HIGH or FIELD=log:LOW:HIGH."""
    trials: int | None = None
    """Configurations to try. None: 16, or the whole grid."""
    algorithm: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe`: Optuna's tree-structured Parzen estimator; `random`; `grid`: every combination, of listed values only."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha`: stop a trial that is worse than others were after as many bytes; `none`: train all to the end."""
    grace: float = 0.2
    """Share of the training that every trial gets; ASHA decides there, and each time a trial has seen `reduction` times
    as many bytes."""
    reduction: float = 2.0
    """ASHA lets the better one of so many trials go on."""
    seeds: int = 1
    """Trials of every configuration, each with another seed of training; ranked by their mean."""
    objective: Literal["bpb", "bpb+parameters", "bpb+time"] = "bpb"
    """What is to be small: validation bits per byte; or that and the number of parameters, or the time of training."""
    concurrency: int | None = None
    """Trials at a time. None: as many as the cluster's CPUs, and GPUs, can hold."""
    gpu_share: float = 1.0
    """GPUs that a trial holds, where there are GPUs: 0.5 lets two share one."""
    seed: int = 0
    """Seed of the search. With `concurrency` 1, or with `random` and `grid`, the same seed tries the same values."""

    def __post_init__(self) -> None:
        self.require_finite("search.")
        require(len(self.space) > 0, "search.space must name at least one field: --search.space FIELD=VALUE,VALUE")
        require(
            self.trials is None or self.trials >= 1,
            f"search.trials must be at least 1, got {self.trials}",
        )
        require(0 < self.grace < 1, f"search.grace must be a share above 0 and below 1, got {self.grace}")
        require(self.reduction > 1, f"search.reduction must be above 1, got {self.reduction}")
        require(self.seeds >= 1, f"search.seeds must be at least 1, got {self.seeds}")
        require(
            self.concurrency is None or self.concurrency >= 1,
            f"search.concurrency must be at least 1 trial at a time, got {self.concurrency}",
        )
        require(
            0 < self.gpu_share <= 1, f"search.gpu_share must be above 0 and at most 1 GPU a trial, got {self.gpu_share}"
        )
        require(0 <= self.seed < 2**31, f"search.seed must be at least 0 and below 2^31, got {self.seed}")

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is to be small, by the names of a trial's results."""
        second = {"bpb": (), "bpb+parameters": ("parameters",), "bpb+time": ("seconds",)}
        return ("bpb", *second[self.objective])


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep: its search, and everything that its trials have in common."""

    run: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        require(not self.run.local, "a sweep runs its trials on Ray: leave out --local")
        require(not self.run.estimate, "estimate is of one run: leave out --estimate, or ask python jobs/train.py")
        require(self.run.precision != "auto", "a sweep compares trials in one precision: --precision fp32, got auto")
        require(self.run.wait == 0, f"a sweep takes the cluster as it is: leave out --wait, got {self.run.wait}")
        require(
            self.search.gpu_share == 1 or self.run.workers == 1,
            f"search.gpu_share is for trials of one worker: --workers 1, got {self.run.workers}",
        )
        _ = replace(self.run.training, seed=self.run.training.seed + self.search.seeds - 1)  # the last one, checked
