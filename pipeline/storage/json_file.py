"""The one reader of JSON: what is not as it was written is named, with file and field, before anything is made of it.

A shape is a type that pydantic checks strictly: a TypedDict, `list[float]`, `Count`, …; a text is no number, true is no
number, and a field may be missing only where the shape says so. What a shape does not name is left alone.
"""

import json
import reprlib
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, get_args, get_type_hints

from annotated_types import Ge, Lt, Predicate
from typing_extensions import TypedDict

from h2q.errors import UserError
from pipeline.shown import note
from pipeline.storage import uri as storage
from pipeline.storage.path import AnyPath
from pipeline.storage.uri import DamagedFile

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

LIMIT = 1 << 24
"""Bytes of the largest file that is read, unless told otherwise; Python's values of them may take 30 times as many."""

Count = Annotated[int, Ge(0), Lt(1 << 63)]
"""A number of bytes, steps or documents."""


def _names_a_file(text: str) -> bool:
    return text not in ("", ".", "..") and text.isprintable() and "/" not in text


PlainName = Annotated[str, Predicate(_names_a_file)]
"""The name of a file in the same folder."""

_typed_dict: Any = TypedDict  # of fields that no class statement lists


def read_json(path: AnyPath, shape: Any, remedy: str, *, limit: int = LIMIT) -> Any:
    """What the file holds, if it has the shape; `remedy`: what to do where it has not.

    Raises: FileNotFoundError; DamagedFile; UserError for what cannot be read.
    """
    content = storage.read(path, limit=limit)
    try:
        value = parse(content)
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged ({error}): {remedy}") from error
    return fitting(value, shape, str(path), remedy)


def read_hint(path: AnyPath, shape: Any, without: str) -> Any:
    """What the file holds; None where it is not there, or, as a note says, is damaged: it is not the truth, and
    `without` is how things go on."""
    try:
        return read_json(path, shape, without)
    except FileNotFoundError:
        return None
    except UserError as error:
        note(str(error))
        return None


def fitting(value: Any, shape: Any, where: str, remedy: str) -> Any:
    """The value, if it has the shape. Raises: DamagedFile naming `where`, the first field at fault, and the remedy."""
    from pydantic import ValidationError

    try:
        _adapter(shape).validate_python(value, strict=True)
        return value
    except ValidationError as error:
        raise DamagedFile(f"{where} is damaged: {_fault(error.errors(include_url=False)[0])}; {remedy}") from error


def parse(content: bytes) -> Any:
    """The JSON value of these bytes; the mark that some editors put before a text does not matter.

    Raises: ValueError, in one line.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@cache
def object_of(**named: Any) -> Any:
    """The shape of an object with these fields."""
    return _typed_dict("object", named)


@cache
def shape_of(config: type, *, complete: bool) -> Any:
    """The shape of what a dataclass of options becomes as JSON. `complete`: every field is there, and no other."""
    hints = get_type_hints(config)
    named = {field.name: _field(hints[field.name], complete) for field in fields(config)}
    shape = _typed_dict(config.__name__, named)
    shape.__pydantic_config__ = {"extra": "forbid" if complete else "ignore"}
    return shape


def _field(hint: Any, complete: bool) -> Any:
    if is_dataclass(hint):
        return shape_of(hint, complete=complete)  # type: ignore[arg-type]
    if dataclasses := [each for each in get_args(hint) if is_dataclass(each)]:
        hint = shape_of(dataclasses[0], complete=complete) | None  # type: ignore[arg-type]
    if getattr(hint, "__origin__", None) is tuple:
        hint = list[hint.__args__[0]]
    return hint if complete else NotRequired[hint]


@cache
def _adapter(shape: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # takes a sixth of a second to load

    return TypeAdapter(shape)


def _fault(error: "ErrorDetails") -> str:
    field = ".".join(map(str, error["loc"])) or "it"
    told = {"missing": "is missing", "extra_forbidden": "is unknown"}.get(error["type"])
    rule = error["msg"].removeprefix("Input ").replace("dictionary", "object")
    return f"{field} {told}" if told else f"{field} {rule}, found {reprlib.repr(error['input'])}"
