"""The search space: fields of a config by name, each with the values it may take."""

import difflib
import itertools
import types
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.training.origin import FREE

Value = int | float | bool | str | None
Values = dict[str, Value]
"""A value for each searched field, by its dotted name."""

_PARTS = ("model", "training", "growth")
_TOP = ("accumulate", "precision")
_KEPT = ("log_every", "evaluate_every", "evaluate_bytes", "save_every", "keep", "seed")
"""Of `training`, what says only how a training is watched and kept, and the seed: of several, --search.seeds."""
_WORDS = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True)
class Choices:
    """A field that takes one of the listed values."""

    field: str
    values: tuple[Value, ...]
    log: bool = False

    def __str__(self) -> str:
        return ", ".join(show(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """A field that takes any value from `low` to `high`, evenly or (`log`) evenly in its logarithm."""

    field: str
    low: float
    high: float
    log: bool
    integer: bool

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "any number"
        return f"{kind} from {show(self.low)} to {show(self.high)}{', evenly in its logarithm' if self.log else ''}"


Dimension = Choices | Range
Space = tuple[Dimension, ...]


def parse_space(texts: tuple[str, ...]) -> Space:
    """The space that the texts describe, each FIELD=VALUE,VALUE,… or FIELD=uniform:LOW:HIGH or FIELD=log:LOW:HIGH.

    Raises: UserError naming the field, what was found and what is meant.
    """
    known = searchable()
    space = tuple(_parse(text, known) for text in texts)
    names = [dimension.field for dimension in space]
    for name in names:
        require(names.count(name) == 1, f"search.space names {name} {names.count(name)} times: list its values once")
    return space


def searchable() -> dict[str, Any]:
    """The fields that can be searched, and their types: numbers, switches and enumerations that decide what is trained,
    not on what corpus or how it is watched and kept."""
    return {
        f"{prefix}{name}": kind
        for prefix, name, kind in _fields(RunConfig)
        if (prefix.rstrip(".") in _PARTS or (not prefix and name in _TOP))
        and kind is not str
        and not (prefix == "training." and name in _KEPT)
    }


def configure(base: RunConfig, values: Values) -> RunConfig:
    """The config with these values. Raises: UserError if they break a rule of the config together."""
    options = base.to_dict()
    for field, value in values.items():
        part, _, name = field.rpartition(".")
        (options[part] if part else options)[name] = value
    if any(field.startswith("growth.") for field in values) and "growth.enabled" not in values:
        _let_grow(options, base, values)
    return RunConfig.from_dict(options)


def check_keeps_model(space: Space, base: RunConfig) -> None:
    """Refuse to search what changes the model where it is given: a run begins with the weights of another.

    Raises: UserError naming the field.
    """
    for dimension in space if base.init_from else ():
        values = dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
        for value in values:
            try:
                model = configure(base, {dimension.field: value}).model
            except UserError:
                continue  # no configuration: it will be skipped
            for name in (one.name for one in fields(model) if one.name not in FREE):
                require(
                    getattr(model, name) == getattr(base.model, name),
                    f"search.space {dimension.field} changes model.{name}, but --init-from brings the model: name a "
                    "--search.space of fields that leave it as it is, or leave out --init-from",
                )


def growth_note(space: Space) -> str | None:
    """What `configure` adds where the growth rule is searched, for people."""
    names = {dimension.field for dimension in space}
    if "growth.enabled" in names or not any(name.startswith("growth.") for name in names):
        return None
    return (
        "growth is on because its rule is searched: unless set, the rank may double (not above its cap; a rank that is "
        "at its cap cannot grow), and the rule's times, where the training is too short for them, follow its length"
    )


def grid(space: Space) -> Iterator[Values]:
    """Every combination, the last field fastest.

    Raises: UserError if a field is a range, which has no end of values.
    """
    for dimension in space:
        require(
            isinstance(dimension, Choices),
            f"a grid needs listed values, {dimension.field} has {dimension}: write {dimension.field}=VALUE,VALUE or "
            "use --search.algorithm tpe",
        )
    lists = [dimension.values for dimension in space if isinstance(dimension, Choices)]
    for combination in itertools.product(*lists):
        yield dict(zip((dimension.field for dimension in space), combination))


def size(space: Space) -> int:
    """Number of combinations of a grid."""
    return sum(1 for _ in grid(space))


def show(value: Value) -> str:
    """A value in few letters: numbers with four digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe(values: Values) -> str:
    """`fixed_rank 4, axiom_lambda 0.01`."""
    return ", ".join(f"{field.rpartition('.')[2]} {show(value)}" for field, value in values.items())


def _let_grow(options: dict[str, Any], base: RunConfig, values: Values) -> None:
    """Switch growth on, with room to grow and times that fit the training; off where the rank is at its cap."""
    model, growth = options["model"], options["growth"]
    cap = base.model.from_dict(model | {"max_rank": None}).rank_cap
    if "model.max_rank" not in values and base.model.max_rank is None:
        model["max_rank"] = min(2 * model["fixed_rank"], cap)
    if model["max_rank"] == model["fixed_rank"]:
        # The rule has no effect: as if it had not been varied, so that equal trainings are known to be equal.
        options["growth"] = base.growth.to_dict() | {"enabled": False}
        model["max_rank"] = base.model.max_rank
        return
    growth["enabled"] = True
    steps = options["training"]["steps"]
    # QRLM's own proportions are 2000 : 1000 : 2000 : 100 steps.
    fitting = {"warmup": steps // 4, "interval": steps // 8, "lookback": steps // 4, "window": steps // 40}
    fitting["rank_warmup"] = steps // 20
    for name, few in fitting.items():
        usual = type(base.growth)()
        if f"growth.{name}" not in values and getattr(base.growth, name) == getattr(usual, name):
            growth[name] = min(growth[name], max(1, few))


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Prefix, name and type of every field of a dataclass and of those in it."""
    hints = get_type_hints(config)
    for field in fields(config):
        if is_dataclass(hints[field.name]):
            yield from _fields(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix, field.name, hints[field.name]


def _parse(text: str, known: dict[str, Any]) -> Dimension:
    name, equals, listed = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    require(bool(equals and name), f"search.space must be FIELD=VALUE,VALUE or FIELD=log:LOW:HIGH, got {text!r}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or [
            field for field in known if field.rpartition(".")[2] == name.rpartition(".")[2]
        ]
        raise UserError(
            f"search.space has no field {name} to search; "
            + (f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}")
        )
    kind = known[name]
    word, _, bounds = listed.partition(":")
    if word in ("uniform", "log"):
        return _range(name, kind, bounds, log=word == "log")
    values = tuple(_value(name, kind, word.strip()) for word in listed.split(","))
    for value in values:
        require(values.count(value) == 1, f"search.space lists {name} = {show(value)} twice: once is enough")
    return Choices(name, values)


def _range(name: str, kind: Any, bounds: str, *, log: bool) -> Range:
    integer = int in (kind, *get_args(kind)) and float not in (kind, *get_args(kind))
    require(
        integer or float in (kind, *get_args(kind)),
        f"search.space {name} takes {_meaning(kind)}, of which there is no range: write {name}=VALUE,VALUE",
    )
    words = bounds.split(":")
    require(len(words) == 2, f"search.space {name} needs two bounds as LOW:HIGH, got {bounds!r}")
    low, high = (_value(name, int if integer else float, word) for word in words)
    assert isinstance(low, int | float) and isinstance(high, int | float)
    require(low < high, f"search.space {name} needs a lower bound below the upper, got {show(low)}:{show(high)}")
    require(
        not log or low > 0,
        f"search.space {name} needs bounds above 0 for a logarithm, got {show(low)}: start at a small number, or write "
        "uniform",
    )
    return Range(name, low, high, log, integer)


def _value(name: str, kind: Any, word: str) -> Value:
    """The word as a value of that type."""
    try:
        return _read(kind, word)
    except ValueError:
        raise UserError(f"search.space {name} takes {_meaning(kind)}, got {word!r}") from None


def _read(kind: Any, word: str) -> Value:
    if get_origin(kind) in (Union, types.UnionType):
        if word.lower() == "none":
            return None
        return _read(next(option for option in get_args(kind) if option is not type(None)), word)
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise ValueError
        return word
    if kind is bool:
        if word.lower() not in _WORDS:
            raise ValueError
        return _WORDS[word.lower()]
    number = kind(word)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _meaning(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return f"{_meaning(next(option for option in get_args(kind) if option is not type(None)))} or none"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {bool: "yes or no", int: "integers", float: "numbers"}[kind]
