"""What a model is, when it grows, how it is sampled: frozen, validated, without torch so that `--help` is quick."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from h2q.alphabet import ALPHABET, BYTES, CARRIED
from h2q.errors import require
from h2q.layers import FAMILIES, PER_BLOCK
from h2q.layers.structure import Sizes, Structure
from h2q.mixers import MIXERS
from h2q.ngrams import SYMBOLS, Ngrams, read_ngrams

MOST_BLOCKS = 4096
"""A file that claims more is damaged: whatever reads it would make them all."""


class FromDict:
    """Gives a frozen dataclass `from_dict` and `to_dict`; a field that it does not know is an error, never ignored."""

    def require_finite(self, part: str) -> None:
        """Refuse numbers that are none: no size, rate or share is infinite. Raises: UserError naming the field."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            require(
                not isinstance(value, float) or math.isfinite(value),
                f"{part}{field.name} must be a finite number, got {value}",
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        require(
            not unknown, f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(sorted(known))}"
        )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(FromDict):
    """The model: sizes and architecture."""

    kind: str = "hamilton"
    """Weight family. `hamilton`: weights generated from the shared bank; `dense`: the same blocks with ordinary weight
    matrices; `phm`, `btt`, `monarch`, `low_rank`: of two cores, each layer's own; or one that `h2q/layers` has
    besides."""
    factors: Literal["shared", "per-block"] = "shared"
    """Hamilton layers have one factor a rank for all blocks of the input, or one for each of them: as many
    multiply-adds, and S times the parameters."""
    mixer: str = "attention"
    """What mixes positions in a block. `attention`: within the chunk; `state`: a gated recurrence, whose state goes on
    from chunk to chunk; `both` side by side; or one that `h2q/mixers` has besides."""
    rotation: Literal["none", "phase", "quaternion"] = "none"
    """Turn the state as it decays (port-Hamiltonian form): by complex phases, or by quaternions, which do not
    commute."""
    dim: int = 768
    """Width D of the residual stream (both halves together)."""
    depth: int = 12
    """Number of blocks."""
    feed_forward: bool = True
    """Feed-forward layers behind each mixer. Without them a block is its mixer, and halves take turns from block to
    block (leapfrog): for the same multiply-adds more blocks, or wider ones."""
    ngrams: str = ""
    """Tables of the last n bytes, hashed, added to the embedded byte: as n:ROWSxWIDTH with commas between, like
    2:2048x8,3:4096x8; n:allxWIDTH has a row for every n-gram."""
    strides: Literal["off", "auto"] = "off"
    """`auto`: in pictures and sounds the model sees the bytes one pixel, one row and some samples back, too, and
    predicts from them; what is a picture, and how wide, it knows from the markers of its alphabet."""
    heads: int = 8
    """Attention heads of a block."""
    factor: int = 32
    """Factor size F: channels of a block, of the Kronecker product and in `phm`, `btt` and `monarch`."""
    fixed_rank: int = 8
    """Rank R of every layer: Kronecker terms in `hamilton` and `phm`, rank in `btt` and `low_rank` (with growth: the
    rank to start from)."""
    max_rank: int | None = None
    """Largest rank that growth may reach; storage for it is there from the start. None: `fixed_rank`."""
    seq_len: int = 128
    """Context T in bytes: the length of a chunk, and of learned positions."""
    vocab: int = 256
    """Size of the alphabet: 256 byte values; with the markers of a corpus of pictures, sounds or several kinds 260."""
    halves: bool = True
    """Two invertible halves of width D/2 (H2Q) instead of one stream of width D (QRLM)."""
    phase_rotation: bool = True
    """Feed each head's output back through its own quaternion phase (H2Q)."""
    init: Literal["unit", "published"] = "unit"
    """`unit`: every layer starts with unit gain and what writes to the residual at zero; `published`: Haar-orthogonal
    components and factors times (r+1)^-1/2, whose activations explode with depth."""
    positions: Literal["sinusoids", "random", "relative", "none"] = "sinusoids"
    """What attention knows of order. Learned positions that start as `sinusoids`, which tell near from far at once, or
    at `random` (published); `relative`: scores fall with the distance, by a learned slope for each head; `none`.
    Beside a state, which may begin anywhere, attention has relative ones for learned ones; the state alone has none."""
    final_norm: bool = True
    """LayerNorm before the head (the published models have none)."""
    ffn_expansion: int = 1
    """Hidden width of the feed-forward layers over the model's: 4 in an ordinary transformer (not `hamilton`)."""
    tied_embeddings: bool = True
    """The head reuses the token embedding as its weight (the published models keep two)."""
    dropout: float = 0.1
    """Dropout on the embedded bytes."""
    head_layout: Literal["split", "published"] = "split"
    """`published`: the defective reshape without transpose of the published H2Q, for imported checkpoints only."""
    memory: Literal["store", "reversible"] = "store"
    """`reversible`: rebuild activations in the backward pass (needs `halves`); memory flat in depth for more time."""

    @property
    def order(self) -> Literal["learned", "relative", "none"]:
        """What attention knows of order in this model."""
        if not MIXERS[self.mixer].attends or self.positions == "none":
            return "none"
        return "relative" if self.carries or self.positions == "relative" else "learned"

    @property
    def longest(self) -> int | None:
        """Bytes of the longest window that the model can read; None where there is no longest."""
        return self.seq_len if self.order == "learned" else None

    @property
    def carries(self) -> bool:
        """Whether the model carries a state from chunk to chunk."""
        return MIXERS[self.mixer].carries

    @property
    def ends_swapped(self) -> bool:
        """Whether halves that take turns have changed places behind the last block: they are put back."""
        return self.halves and not self.feed_forward and self.depth % 2 == 1

    @property
    def tables(self) -> tuple[Ngrams, ...]:
        """The tables of n-grams."""
        return read_ngrams(self.ngrams, self.symbols)

    @property
    def symbols(self) -> int:
        """What a place of an n-gram can hold: a symbol of the alphabet, or nothing, before the beginning."""
        return max(SYMBOLS, self.vocab + 1)

    @property
    def rows(self) -> int:
        """Rows that the state of a lane has: one for each block, and where it is carried with tables one for the last
        bytes, with strides those in which neighbours stand."""
        if not self.carries:
            return self.depth
        rows = self.depth + bool(self.tables)
        return rows if self.strides == "off" else rows + -(-CARRIED // self.width)

    @property
    def width(self) -> int:
        """Width of one layer: D/2 with halves, else D."""
        return self.dim // 2 if self.halves else self.dim

    @property
    def blocks(self) -> int:
        """Blocks S of the Kronecker product: width / F."""
        return self.width // self.factor

    @property
    def rank_cap(self) -> int:
        """The largest useful rank of the family; of Hamilton matrices S × S there are 4 (S/4)² independent ones."""
        return (FAMILIES[self.kind].most_ranks or max)(self.blocks, self.factor)

    @property
    def structure(self) -> Structure | None:
        """Of the layers' weights, where these are made of two cores."""
        return PER_BLOCK if self.factors == "per-block" else FAMILIES[self.kind].structure

    def sizes(self, inputs: int, outputs: int, rank: int) -> Sizes:
        """Of the axes of a layer's cores, both widths in channels."""
        assert self.structure is not None
        return self.structure.sizes(self.width, inputs, outputs, self.factor, rank)

    @property
    def storage_rank(self) -> int:
        """Ranks for which there is storage."""
        return self.fixed_rank if self.max_rank is None else self.max_rank

    def __post_init__(self) -> None:
        self.require_finite("model.")
        require(self.kind in FAMILIES, f"model.kind must be one of {', '.join(FAMILIES)}, got {self.kind!r}")
        require(self.mixer in MIXERS, f"model.mixer must be one of {', '.join(MIXERS)}, got {self.mixer!r}")
        for name in ("dim", "depth", "heads", "factor", "fixed_rank", "seq_len", "vocab", "ffn_expansion"):
            require(getattr(self, name) >= 1, f"model.{name} must be at least 1, got {getattr(self, name)}")
        require(self.depth <= MOST_BLOCKS, f"model.depth must be at most {MOST_BLOCKS}, got {self.depth}")
        require(0 <= self.dropout < 1, f"model.dropout must be at least 0 and below 1, got {self.dropout}")
        require(not self.halves or self.dim % 2 == 0, f"model.dim must be even to be cut into halves, got {self.dim}")
        width = f"model.dim / 2 = {self.width}" if self.halves else f"model.dim = {self.width}"
        self._check_family(width)
        require(self.width % self.heads == 0, f"model.heads must divide {width}, got {self.heads}")
        require(
            not self.phase_rotation or self.width // self.heads % 4 == 0,
            f"phase rotation reads channels as quaternions: {width} / model.heads = {self.width // self.heads} "
            "must be a multiple of 4",
        )
        self._check_mixer(width)
        self._check_ngrams(width)
        require(
            self.strides == "off" or self.vocab >= ALPHABET,
            f"model.strides auto reads markers, which are symbols {BYTES} to {ALPHABET - 1}: give --model.vocab "
            f"{ALPHABET}, got {self.vocab}",
        )
        require(
            self.strides == "off" or self.head_layout == "split",
            "model.head_layout published has no strides: use --model.strides off",
        )
        require(
            self.memory == "store" or self.halves,
            "model.memory reversible needs model.halves: one stream has no inverse",
        )

    def _check_family(self, width: str) -> None:
        family = FAMILIES[self.kind]
        require(
            self.factors == "shared" or self.kind == "hamilton",
            f"model.factors per-block is of Hamilton layers: --model.kind hamilton, got {self.kind}",
        )
        step, times = max(1, family.grain * self.factor), f"{family.grain} × " if family.grain > 1 else ""
        require(
            self.width % step == 0,
            f"{width} must be a multiple of {times}model.factor = {step} (got {self.width % step} left over); "
            f"try --model.dim {max(step, round(self.width / step) * step) * (2 if self.halves else 1)}",
        )
        require(
            not family.square or self.ffn_expansion == 1,
            f"Hamilton layers are square: model.ffn_expansion must be 1, got {self.ffn_expansion}; "
            "other kinds take others",
        )
        require(
            self.kind != "monarch" or self.factor % self.blocks == 0,
            f"in monarch every output reads every input: model.factor must be a multiple of the {self.blocks} blocks "
            f"that it leaves of {width}, got {self.factor}",
        )
        if family.most_ranks is None:
            return
        cap, blocks = self.rank_cap, self.blocks
        why = f"{cap}, where {self.kind} layers of {width} are as free as dense ones"
        if self.kind == "hamilton":
            why = (
                f"4 (S/4)² = {cap}, the number of independent Hamilton matrices of S = width / factor = {blocks} blocks"
            )
        for name, rank in (("fixed_rank", self.fixed_rank), ("max_rank", self.storage_rank)):
            require(rank <= self.rank_cap, f"model.{name} must be at most {why}, got {rank}")
        require(
            self.storage_rank >= self.fixed_rank,
            f"model.max_rank must be at least model.fixed_rank = {self.fixed_rank}, got {self.max_rank}",
        )

    def _check_ngrams(self, width: str) -> None:
        tables = self.tables
        longest = max((table.order for table in tables), default=1)
        require(
            longest <= self.width,
            f"model.ngrams {self.ngrams} looks back {longest} bytes, and at most as many as {width} can be carried",
        )
        require(
            self.head_layout == "split" or not tables,
            f"model.head_layout published has no tables, got model.ngrams {self.ngrams}: leave them out",
        )

    def _check_mixer(self, width: str) -> None:
        require(
            self.head_layout == "split" or not self.carries,
            f"model.head_layout published is one of attention alone, got model.mixer {self.mixer}: use --model.mixer "
            "attention",
        )
        require(
            self.head_layout == "split" or self.order == "learned",
            f"model.head_layout published needs learned positions, got model.positions {self.positions}: use "
            "--model.positions sinusoids",
        )
        require(
            self.rotation == "none" or self.carries,
            f"model.rotation {self.rotation} turns a state, and model.mixer {self.mixer} has none: use --model.mixer "
            "state",
        )
        require(
            self.rotation == "none" or self.width % 4 == 0,
            f"model.rotation {self.rotation} reads the state as quaternions: {width} must be a multiple of 4",
        )


@dataclass(frozen=True, kw_only=True)
class GrowthConfig(FromDict):
    """Dynamic rank growth: one more active rank when the training loss stagnates."""

    enabled: bool = False
    """Grow at all."""
    warmup: int = 2000
    """Steps before the first decision."""
    interval: int = 1000
    """Steps between decisions."""
    window: int = 100
    """Steps over which the training loss is averaged."""
    lookback: int = 2000
    """How many steps ago the window began that the last one is compared with."""
    threshold: float = 0.99
    """Grow when recent mean > threshold × old mean."""
    lr_scale: float = 0.8
    """The learning rate is multiplied by this at each growth."""
    cooldown: int = 0
    """Steps after a growth without a decision, beyond the interval."""
    rank_warmup: int = 100
    """Steps over which the new rank's own learning rate rises to its full value."""
    where: Literal["ffn", "all"] = "ffn"
    """Which Hamilton layers gain the rank."""

    def __post_init__(self) -> None:
        self.require_finite("growth.")
        for name in ("interval", "window", "lookback"):
            require(getattr(self, name) >= 1, f"growth.{name} must be at least 1 step, got {getattr(self, name)}")
        for name in ("warmup", "cooldown", "rank_warmup"):
            require(getattr(self, name) >= 0, f"growth.{name} must be at least 0 steps, got {getattr(self, name)}")
        require(self.threshold > 0, f"growth.threshold must be positive, got {self.threshold}")
        require(0 < self.lr_scale <= 1, f"growth.lr_scale must be above 0 and at most 1, got {self.lr_scale}")
        require(
            self.lookback >= self.window,
            f"growth.lookback must be at least growth.window = {self.window}, got {self.lookback}",
        )


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(FromDict):
    """A projector: what it writes of the state of a moment."""

    last: int = 128
    """Bytes before the moment that it writes."""
    next: int = 32
    """Bytes behind the moment that it writes, as a task of its own."""
    order: Literal["newest-first", "in-order"] = "newest-first"
    """In which order it writes the bytes before the moment."""
    given: Literal["moment", "stream"] = "moment"
    """What it is given of a moment: the states of all blocks and the residual stream, or the `stream` alone: a control,
    and all that there is of a core without a state."""
    rank: int = 192
    """Channels that it reads off a state; how much each counts is learned for every distance from the moment."""
    moments: int = 1
    """Moments of each lane in a step, drawn at random where its chunk is longer than `last` (`training.horizon`)."""

    def __post_init__(self) -> None:
        for name in ("last", "next", "rank", "moments"):
            require(getattr(self, name) >= 1, f"projector.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BoundProjector(ProjectorConfig):
    """A projector, and the core whose states it reads."""

    core: str
    """The checkpoint of the core, a folder."""
    sha256: str
    """Of the core's weights: a projector reads no other."""
    untrained: bool = False
    """It reads the core's model with new weights: a control."""
    core_model: ModelConfig
    """The model of the core."""

    @property
    def features(self) -> int:
        """Numbers of a moment that it is given: states of the core's blocks, and its residual stream."""
        states = self.core_model.depth * self.core_model.width if self.given == "moment" else 0
        return states + self.core_model.dim

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return super().from_dict(values | {"core_model": ModelConfig.from_dict(values["core_model"])})


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(FromDict):
    """How a byte is drawn from the model's distribution."""

    temperature: float = 1.0
    """Below 1 likely bytes become likelier, above 1 less so; 0 always takes the likeliest."""
    top_k: int | None = None
    """Draw from this many likeliest bytes only."""
    top_p: float | None = None
    """Draw from the fewest likeliest bytes only whose probabilities sum to this share."""
    min_p: float | None = None
    """Draw only from bytes at least this many times as likely as the likeliest."""
    seed: int = 0
    """The same seed gives the same bytes."""

    def __post_init__(self) -> None:
        require(
            0 <= self.temperature < float("inf"), f"temperature must be finite and at least 0, got {self.temperature}"
        )
        require(self.top_k is None or self.top_k >= 1, f"top-k must be at least 1 byte, got {self.top_k}")
        require(self.top_p is None or 0 < self.top_p <= 1, f"top-p must be above 0 and at most 1, got {self.top_p}")
        require(self.min_p is None or 0 <= self.min_p <= 1, f"min-p must be between 0 and 1, got {self.min_p}")
        require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")
