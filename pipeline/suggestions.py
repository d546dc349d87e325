"""Options that a config does not have, and the ones that were likely meant."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import tyro

from h2q.errors import UserError


class UnknownOptions(UserError):
    """Options that there are not. Its text has a line for each, and one for each that may be meant."""


def unknown_options(args: Sequence[str], default: Any) -> list[str]:
    """Lines that name every option of the arguments that the config does not have, the likeliest right one first."""
    names = list(option_names(default))
    lines: list[str] = []
    for asked in (arg.partition("=")[0].replace("_", "-") for arg in args if arg.startswith("--")):
        if asked.lstrip("-") in (*names, "help"):
            continue
        likely = nearest(asked.lstrip("-"), names)
        lines.append(f"there is no option {' '.join(asked.split())}; {'likely:' if likely else '--help lists all'}")
        lines += [f"  --{name}" for name in likely]
    return lines


def nearest(asked: str, names: Sequence[str]) -> list[str]:
    """At most three of the names, as likely as they are meant by what was asked: by letters, initials (`lr`), or what
    other programs call it."""
    wanted = _CALLED_ELSEWHERE.get(asked.rpartition(".")[2])
    group, _, last = asked.rpartition(".")

    def likeness(name: str) -> float:
        its_group, _, its_last = name.rpartition(".")
        initials = "".join(word[:1] for word in its_last.split("-"))
        alike = max(_ratio(last, its_last), _ratio(asked, name), 0.9 * (len(last) > 1 and last == initials))
        return (name == wanted) + alike + 0.01 * (group == its_group) + 0.05 * name.startswith("training.")

    ordered = sorted(names, key=likeness, reverse=True)
    return [name for name in ordered[:3] if likeness(name) >= 0.65]


_CALLED_ELSEWHERE = {
    "batch-size": "training.lanes",
    "batch": "training.lanes",
    "epochs": "training.steps",
    "iters": "training.steps",
    "max-steps": "training.steps",
    "data": "corpus.path",
    "dataset": "corpus.path",
    "block-size": "model.seq-len",
    "context": "model.seq-len",
    "layers": "model.depth",
    "n-layers": "model.depth",
    "hidden-size": "model.dim",
    "d-model": "model.dim",
    "width": "model.dim",
    "gradient-accumulation-steps": "accumulate",
    "grad-clip": "training.clip",
    "no-tracking": "tracking.no-enabled",
    "output-dir": "storage",
    "out": "storage",
    "device": "use-gpu",
    "gpus": "use-gpu",
    "dtype": "precision",
    "fp16": "precision",
    "bf16": "precision",
}
"""Names that other programs of the field give to options."""


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def option_names(config: Any, prefix: str = "") -> Iterator[str]:
    """The options of a config without their dashes."""
    for field in fields(config):
        marks, value = getattr(field.type, "__metadata__", ()), getattr(config, field.name)
        if tyro.conf.Positional in marks or tyro.conf.Suppress in marks:
            continue
        named = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        name = (named[0] if named else field.name).replace("_", "-")
        if is_dataclass(value):
            yield from option_names(value, f"{prefix}{name}." if name else prefix)
        else:
            yield prefix + name
            if isinstance(value, bool):
                yield f"{prefix}no-{name}"
