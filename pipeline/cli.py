"""Command lines: a frozen dataclass in, one clear line out when something is wrong (exit code 2)."""

import contextlib
import gc
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import tyro

from h2q.errors import UserError
from pipeline.guard import guarded
from pipeline.suggestions import UnknownOptions, unknown_options
from pipeline.threads import waits

Config = TypeVar("Config")


def parse(
    config: type[Config], args: Sequence[str], *, default: Config, prog: str, description: str | None = None
) -> Config:
    """The config that the arguments describe, over the default. Prints help and exits 0 on `--help`.

    Raises: UserError with one line that names the option and the value; where there is no such option, with a line for
    each that may be meant.
    """
    told = io.StringIO()
    wants_help = any(arg in ("-h", "--help") for arg in args)
    with contextlib.nullcontext() if wants_help else contextlib.redirect_stderr(told):
        try:
            return tyro.cli(config, args=args, default=default, prog=prog, description=description)
        except SystemExit as stop:
            if not stop.code:
                raise
    if unknown := unknown_options(args, default):
        raise UnknownOptions("\n".join(unknown))
    raise UserError(_one_line(told.getvalue()))


def parse_known(config: type[Config], args: Sequence[str]) -> Config:
    """What the arguments say of these fields alone; others are for `parse`, which also answers to `--help`.

    Raises: UserError with one line that names the option and the value.
    """
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        try:
            return tyro.cli(config, args=args, return_unknown_args=True, add_help=False)[0]
        except SystemExit:
            raise UserError(_one_line(told.getvalue())) from None


def options_of(config: Any, default: Any, prefix: str = "") -> list[str]:
    """The options that make this config from the default: `parse` gives it back. A field cannot be set back to None."""
    options: list[str] = []
    for field in fields(config):
        name, value, usual = f"{prefix}{field.name}", getattr(config, field.name), getattr(default, field.name)
        if is_dataclass(value):
            options += options_of(value, usual, f"{name}.")
        elif value != usual:
            path, _, last = name.replace("_", "-").rpartition(".")
            dotted = f"{path}." if path else ""
            options += (
                [f"--{dotted}{'' if value else 'no-'}{last}"]
                if isinstance(value, bool)
                else [f"--{dotted}{last}", str(value)]
            )
    return options


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Call main(arguments) as a job, and exit with its code: `pipeline.guard` says which errors give which."""
    os.environ.update(waits())  # before torch is loaded, and for all that this process starts
    code = guarded(main)
    # Python collects garbage on its way out: seconds with torch, Ray and MLflow, for what the system frees anyway.
    gc.freeze()
    sys.exit(code)


def quiet_profiler() -> None:
    """Keep torch's profiler from talking. Call before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _one_line(boxed: str) -> str:
    """tyro's framed message as one line, without what our own rules need not repeat."""
    # Its frame has a title; it is drawn with dashes only where standard output does not call its encoding "utf-8".
    lines = [line.strip("│ ") for line in boxed.splitlines()]
    title = next((number for number, line in enumerate(lines) if not line.strip("-") or line.startswith("╭")), -1)
    line = " ".join(line for line in lines[title + 1 :] if line.strip("─-╰╯"))
    return re.sub(r"^Error parsing [^-]\S*: ", "", re.sub(r"\.?\s*For full helptext,", ";", line))
