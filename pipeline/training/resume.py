"""Whether and how a run goes on: what its earlier starts left, what it is asked to change, and who else trains it."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.checkpoint import config_of, newest_state
from pipeline.runs.folder import RunFolder, find_folder
from pipeline.runs.load import run_config
from pipeline.storage.held import Held, held
from pipeline.terminal import Display
from pipeline.tracking.provenance import flatten
from pipeline.training.prologue import public
from pipeline.training.schedule import learning_rate, next_leg
from pipeline.training.summary import Summary, read_summary

_OF_ONE_START = ("name", "storage", "resume", "estimate", "profile")
"""Options that say nothing of what a run is."""
_PLACES = tuple(f"corpus.{name}" for name in ("prepared", "shard_bytes", "verify", "cache", "cache_bytes"))
"""Options of a corpus that say nothing of its text."""


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """A run as its earlier starts left it."""

    folder: RunFolder
    preset: str
    command: str
    """Of its first start."""
    config: RunConfig
    state: dict[str, Any] | None
    """Of its newest valid checkpoint, None where there is none."""
    checkpoint: Path | None
    damaged: list[str]
    """Why newer checkpoints are passed over."""

    @property
    def step(self) -> int:
        """Where it goes on."""
        return self.state["step"] if self.state else 0

    @property
    def seconds(self) -> float:
        """Of all its starts, everything included, as far as anybody could note them."""
        state = self.state or {}
        noted = state.get("wall_seconds", state.get("seconds", 0.0))
        summary = self.folder.summary() or {}
        return max(noted, summary.get("wall_seconds") or 0.0)

    def result(self, config: RunConfig) -> Summary | None:
        """What came out of it, if nothing of it is left to do.

        Raises: UserError if it is asked for with another corpus, which nobody would look at any more.
        """
        summary = read_summary(self.folder)
        ended = summary is not None and summary.status == "finished" and summary.steps == self.step
        if not ended or self.step != config.training.steps:
            return None
        for name, value in changes(self.config, public(config)).items():
            require(
                not name.startswith("corpus.") or name in _PLACES,
                f"resume needs the corpus of the run: {name} was {value['was']}, now {value['now']}; leave it out, or "
                "start another --name",
            )
        return summary


def find_earlier(storage: Path, name: str | None) -> EarlierRun:
    """What there is of the run `name`, or of the newest run.

    Raises: UserError if there is none, or if it has checkpoints and every one is damaged.
    """
    folder = find_folder(storage, name)
    stored = folder.config()
    assert stored is not None
    state, checkpoint, damaged = newest_state(folder.checkpoints) or (None, None, [])
    return EarlierRun(
        folder=folder,
        preset=stored["preset"],
        command=stored["command"],
        config=public(run_config(folder)),  # whatever an earlier version noted
        state=state,
        checkpoint=checkpoint,
        damaged=damaged,
    )


def hold(folder: RunFolder, until: ExitStack, say: Callable[[str], object]) -> None:
    """Train there alone, until the stack is closed.

    Raises: UserError naming the process that trains there already.
    """
    try:
        until.enter_context(held(folder.lock_file, say))
    except Held as error:
        raise UserError(f"run {folder.name} is being trained by {error}: wait for its end, or stop it") from None


def check_resumable(earlier: EarlierRun, config: RunConfig) -> None:
    """Refuse to continue a run as another model, or to an end that lies behind it.

    Raises: UserError naming the field and both values.
    """
    if earlier.state is None:
        return
    require(
        config.training.steps >= earlier.step,
        f"training.steps must be at least {earlier.step}, the steps that {earlier.folder.name} has done, got "
        f"{config.training.steps}: leave it out, or raise it",
    )
    require(
        "growth" in earlier.state,
        f"{earlier.folder.name} was imported, without what training needs to go on: it can be evaluated and let write",
    )
    before = config_of(earlier.state).model.to_dict()
    for name, value in config.model.to_dict().items():
        was = before[name]
        require(
            was == value or name in ("memory", "dropout"),
            f"resume needs the model of the run: model.{name} was {was}, now {value}; start another --name",
        )


def check_same_corpus(earlier: EarlierRun, corpus: Corpus) -> None:
    """Refuse to continue a run on another text. Raises: UserError naming both."""
    was = earlier.state["corpus_sha256"] if earlier.state else corpus.sha256
    require(
        was == corpus.sha256,
        f"resume needs the corpus of the run: its sha256 was {was[:16]}, {corpus.name} has {corpus.sha256[:16]}",
    )


def go_on(earlier: EarlierRun, config: RunConfig, command: str, display: Display) -> None:
    """Note what the run is from here on, with what this start changes, and say both."""
    for reason in earlier.damaged:
        display.say(f"damaged checkpoint passed over: {reason}")
    if earlier.checkpoint is None:
        display.say("no checkpoint yet: starting at step 0")
    else:
        display.say(f"continuing at step {earlier.step} from {earlier.checkpoint.name}")
    note_options(earlier, config, command, display)
    if earlier.state is not None:
        _say_what_restarts(earlier.state, config, display)


def _say_what_restarts(state: dict[str, Any], config: RunConfig, display: Display) -> None:
    """A learning rate or a loss scale that does not go on where it was."""
    made, training, step = config_of(state), config.training, state["step"]
    leg = next_leg(step, training, made.training, state.get("leg"))
    was, now = learning_rate(step, made.training, state.get("leg")), learning_rate(step, training, leg)
    if not math.isclose(was, now, rel_tol=0.01):
        told = f"learning rate {was:.2g} → {now:.2g}, along the {training.schedule} schedule of {training.steps} steps"
        display.say(f"{told}; with --training.schedule warm-down it goes down from {was:.2g}")
    elif leg is not None and leg["step"] == step:
        display.say(f"learning rate from {was:.2g} down to {training.floor:g} of it at step {training.steps}")
    if config.precision == "fp16" and not state.get("scaler"):
        display.say("precision fp16: the loss scale starts over")


def note_options(earlier: EarlierRun, config: RunConfig, command: str, display: Display) -> None:
    """Keep what this start was given: config.json says what the run now is, history.json from which step on."""
    options = changes(earlier.config, config)
    if options:
        earlier.folder.note_change(earlier.step, command, options)
        told = ", ".join(f"{name} {each['was']} → {each['now']}" for name, each in options.items())
        display.say(f"from here on: {told}")
    earlier.folder.note_config(earlier.preset, earlier.command, replace(config, name=earlier.config.name))


def changes(was: RunConfig, now: RunConfig) -> dict[str, dict[str, Any]]:
    """The options that differ, by their path, with both values."""
    before, after = flatten(was.to_dict()), flatten(now.to_dict())
    return {
        name: {"was": before.get(name), "now": value}
        for name, value in after.items()
        if value != before.get(name) and name not in _OF_ONE_START
    }
