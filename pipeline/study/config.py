"""A study as one frozen value: which families and sizes, how often, and how much each training may use."""

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from h2q.config import FromDict, ModelConfig
from h2q.errors import UserError, require
from h2q.layers import FAMILIES
from pipeline.config import RunConfig
from pipeline.sweep.config import SearchConfig, SweepConfig
from pipeline.sweep.space import Choices, Values, parse_space

CURRENCIES = ("seconds", "multiply-adds", "bytes")


@dataclass(frozen=True, kw_only=True)
class StudyOptions(FromDict):
    """The grid: families, sizes, seeds; the budget of a training; the search of the rates."""

    families: tuple[str, ...] = ("hamilton", "hamilton:factors=per-block:fixed_rank=1", "btt:fixed_rank=1", "dense")
    """Weight families, each as KIND or KIND:FIELD=VALUE:…, with fields of the model."""
    sizes: tuple[int, ...] = (128, 256, 512)
    """Widths `model.dim`, the smallest first. Factors grow along, so that the number of blocks stays the preset's."""
    seeds: int = 2
    """Trainings of each family at each size."""
    budget: str = "seconds:40"
    """What a training may use, as CURRENCY:NUMBER: `seconds` (CPU time of the process, or time of the GPU),
    `multiply-adds` (of forward passes), `bytes` seen."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Learning rates tried for each family at the smallest size, as multiples of the preset's. The best one goes to
    larger sizes by rule: it falls as the width grows, for bank, embeddings and tables it stays."""
    transfer: bool = False
    """Try the multiples at the largest size, too, to see whether the rule holds."""
    concurrency: int | None = None
    """Trainings at a time. None: as many as the cluster's CPUs, and GPUs, can hold."""
    extend: bool = False
    """With --resume: families, larger sizes, seeds or `transfer` may be added to what is there."""

    def __post_init__(self) -> None:
        require(len(self.families) > 0, "study.families must name at least one: --study.families hamilton dense")
        for text in self.families:
            family_of(text)
        for name in ("families", "sizes", "rates"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"study.{name} must differ from each other, got {values}")
        require(
            len(self.sizes) > 0 and list(self.sizes) == sorted(self.sizes) and self.sizes[0] >= 1,
            f"study.sizes must be widths, the smallest first, got {self.sizes}",
        )
        require(self.seeds >= 1, f"study.seeds must be at least 1, got {self.seeds}")
        require(
            len(self.rates) > 0 and min(self.rates) > 0, f"study.rates must be positive, at least one, got {self.rates}"
        )
        require(
            self.concurrency is None or self.concurrency >= 1,
            f"study.concurrency must be at least 1 training at a time, got {self.concurrency}",
        )
        _ = self.currency, self.amount

    @property
    def currency(self) -> str:
        """What the budget counts."""
        currency = self.budget.partition(":")[0]
        require(
            currency in CURRENCIES, f"study.budget must be of {', '.join(CURRENCIES)}, as seconds:40, got {currency!r}"
        )
        return currency

    @property
    def amount(self) -> float:
        """How much a training may use."""
        text = self.budget.partition(":")[2]
        try:
            amount = float(text)
        except ValueError:
            amount = -1.0
        require(0 < amount < float("inf"), f"study.budget needs a positive number, as {self.currency}:40, got {text!r}")
        return amount


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study, and everything that its trainings have in common."""

    run: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    study: StudyOptions = field(default_factory=StudyOptions)

    def __post_init__(self) -> None:
        require(not self.study.extend or self.run.resume, "study.extend adds to a study that is there: add --resume")
        require(not self.run.growth.enabled, "a study compares models of one size: leave out --growth.enabled")
        require(self.run.init_from is None, "a study trains from the start: leave out --init-from")
        require(self.run.workers == 1, f"a training of a study has one worker: --workers 1, got {self.run.workers}")
        _ = self.sweep

    @property
    def sweep(self) -> SweepConfig:
        """The same as a sweep: what its folder notes, and what its trials are given."""
        rates = (self.run.training.learning_rate * rate for rate in self.study.rates)
        space = (
            f"model.dim={','.join(map(str, self.study.sizes))}",
            f"training.learning_rate={','.join(map(str, rates))}",
        )
        search = SearchConfig(
            space=space,
            algorithm="grid",
            scheduler="none",
            seeds=self.study.seeds,
            concurrency=self.study.concurrency,
        )
        return SweepConfig(run=self.run, search=search)


def family_of(text: str) -> Values:
    """What KIND:FIELD=VALUE:… sets, by dotted names. Raises: UserError naming what is not known."""
    kind, *changes = text.split(":")
    require(kind in FAMILIES, f"study.families must be of {', '.join(FAMILIES)}, got {kind!r}")
    for change in changes:
        field, _, value = change.partition("=")
        require(
            bool(field.strip() and value.strip()),
            f"study.families must be KIND or KIND:FIELD=VALUE:…, like btt:fixed_rank=1, got {text!r}",
        )
    values: Values = {"model.kind": kind}
    try:
        space = parse_space(tuple(f"model.{change}" for change in changes))
    except UserError as error:
        raise UserError(str(error).replace("search.space", f"study.families {text}")) from None
    for dimension in space:
        require(
            isinstance(dimension, Choices) and len(dimension.values) == 1,
            f"study.families {text} must give {dimension.field} one value",
        )
        require(dimension.field != "model.dim", f"study.families {text} leaves the width to --study.sizes")
        assert isinstance(dimension, Choices)
        values[dimension.field] = dimension.values[0]
    return values


def sized(base: ModelConfig, family: str, dim: int) -> Values:
    """The model of a family at a width, by dotted names: as many blocks as the base has, its rank up to what the family
    can use; `low_rank` has a quarter of a layer's width."""
    values = family_of(family)
    width, factor = base.width * dim // base.dim, max(1, base.factor * dim // base.dim)
    most = FAMILIES[str(values["model.kind"])].most_ranks
    rank = max(1, width // 4) if values["model.kind"] == "low_rank" else base.fixed_rank
    if most is not None:
        rank = min(rank, most(max(1, width // factor), factor))
    own = {"model.dim": dim, "model.factor": factor, "model.fixed_rank": rank, "model.max_rank": None}
    return own | {"model.factors": "shared"} | values
