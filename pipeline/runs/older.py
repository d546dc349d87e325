"""Options that are younger than some runs, and what a run did before there was the option.

A file of options says in which format it is: how many of these options there were when it was written. One that is
missing although there was such an option then has been deleted since: the file is damaged, and no default of today is
guessed. Whoever adds an option adds a line at the end here; `tests/pipeline/runs/test_older.py` tells who forgot.
"""

from typing import Any

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.storage.json_file import fitting, shape_of
from pipeline.storage.uri import DamagedFile

ADDED: tuple[tuple[str, Any], ...] = (
    ("threads", None),
    ("graph", "auto"),
    ("config", None),
    ("init_from", None),
    ("profile", 0),
    ("model.mixer", "attention"),
    ("model.rotation", "none"),
    ("training.horizon", 1),
    ("training.cold_starts", 0.05),
    ("training.reset_at", "never"),
    ("training.evaluate_bytes", None),
    ("model.factors", "shared"),
    ("model.feed_forward", True),
    ("model.ngrams", ""),
    ("training.embedding_lr", 1.0),
    ("training.table_lr", 1.0),
    ("training.table_decay", 0.0),
    ("training.floor", 0.1),
    ("projector", None),
    ("corpus.markers", False),
    ("corpus.mix", ""),
    ("corpus.samples", "ulaw"),
    ("model.strides", "off"),
    ("projector.given", "moment"),
)
FORMAT = len(ADDED)


def completed(options: dict[str, Any], made_in: int) -> dict[str, Any]:
    """The options with those that are younger than a file of this format."""
    whole = {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
    for name, value in ADDED[made_in:]:
        part, _, field = name.rpartition(".")
        holder = whole.get(part) if part else whole
        if isinstance(holder, dict):
            holder.setdefault(field, value)
    return whole


def config_from(options: dict[str, Any], made_in: int, where: str, remedy: str) -> RunConfig:
    """The config that a file holds.

    Raises: DamagedFile naming `where`, the field and the remedy, where an option is missing, unknown or breaks a rule.
    """
    require(
        made_in <= FORMAT,
        f"{where} is of format {made_in}, and this version reads up to {FORMAT}: use the version that wrote it",
    )
    options = fitting(completed(options, made_in), shape_of(RunConfig, complete=True), where, remedy)
    try:
        return RunConfig.from_dict(options)
    except UserError as error:
        raise DamagedFile(f"{where} is damaged: {error}") from error
