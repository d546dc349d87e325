"""The search of a space as a plan: values are drawn, and what breaks a rule or was tried is passed over."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.runs.folder import RunFolder
from pipeline.storage.json_file import object_of, shape_of
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.configuration import Configuration
from pipeline.sweep.folder import SKIPPED
from pipeline.sweep.plan import Next, Skip
from pipeline.sweep.sampler import DEFAULT_TRIALS, Seen, draw
from pipeline.sweep.space import Values, configure, describe, parse_space, size
from pipeline.sweep.trial import validations

if TYPE_CHECKING:
    from pipeline.sweep.sweep import Sweep

_PATIENCE = 100
"""Draws in a row without a new configuration, after which the space is taken to hold no more."""


class Search:
    """The plan of a sweep that searches its space."""

    def __init__(self, folder: RunFolder, config: SweepConfig, check: Callable[[RunConfig], None]) -> None:
        """`folder` need not exist. `check` raises UserError for a config that the corpus, or the machine, is too small
        for."""
        self._config, self._check = config, check
        self.space = parse_space(config.search.space)
        whole = size(self.space) if config.search.algorithm == "grid" else DEFAULT_TRIALS
        self._limit = config.search.trials or whole
        shape = object_of(skipped=list[shape_of(Skip, complete=True)])
        self.skipped = [Skip(**skip) for skip in (folder.read(SKIPPED, shape) or {"skipped": []})["skipped"]]

    @property
    def trials(self) -> int:
        return self._limit * self._config.search.seeds

    @property
    def notes(self) -> dict[str, Any]:
        """None: what was skipped is written as it is drawn."""
        return {}

    def describe(self, values: Values) -> str:
        return describe(values)

    def check(self, sweep: "Sweep") -> None:
        if not sweep.trials and self._draw(sweep) is None:
            reasons = sorted({skip.reason for skip in self.skipped})
            raise UserError(f"search.space holds no valid configuration: {'; '.join(reasons)}")

    def next(self, sweep: "Sweep") -> Next | None:
        """Another seed, or a new configuration."""
        configurations = sweep.configurations()
        for one in configurations:
            if len(one.trials) < self._config.search.seeds and one.state in ("finished", "running"):
                return Next(one.number, one.values, len(one.trials), one.trials[0].draw)
        if len(configurations) >= self._limit:
            return None
        drawn = self._draw(sweep)
        sweep.folder.write(SKIPPED, {"skipped": [asdict(skip) for skip in self.skipped]})
        return drawn and Next(len(configurations) + 1, drawn[1], 0, drawn[0])

    def history(self, sweep: "Sweep") -> list[Seen]:
        """What the search learns from."""
        return [self._seen(sweep, configuration) for configuration in sweep.configurations()]

    def _draw(self, sweep: "Sweep") -> tuple[int, Values] | None:
        """The next draw that is a new, valid configuration; None where the space has no more."""
        run, search = self._config.run, self._config.search
        first = max([-1, *(trial.draw for trial in sweep.trials), *(skip.draw for skip in self.skipped)]) + 1
        tried = {_identity(configure(run, one.values)): one.number for one in sweep.configurations()}
        for number in range(first, first + _PATIENCE):
            values = draw(self.space, search, number, self.history(sweep))
            if values is None:
                return None
            try:
                config = configure(run, values)
                self._check(config)
            except UserError as error:
                self.skipped.append(Skip(number, values, str(error)))
                continue
            same = tried.get(_identity(config))
            if same is None:
                return number, values
            self.skipped.append(Skip(number, values, f"the same training as configuration {same}"))
        return None

    def _seen(self, sweep: "Sweep", tried: Configuration) -> Seen:
        objectives = tuple(tried.mean(name) for name in self._config.search.objectives)
        whole = tried.state == "finished" and len(tried.trials) == self._config.search.seeds
        if tried.state == "finished" and (not whole or None in objectives):
            return Seen(values=tried.values, state="running")
        pruned = next((trial for trial in tried.trials if trial.state == "pruned"), None)
        return Seen(
            values=tried.values,
            state=tried.state,
            objectives=tuple(value for value in objectives if value is not None),
            reached=validations(sweep.folder_of(pruned), until=pruned.step) if pruned else None,
        )


def _identity(config: RunConfig) -> str:
    """Equal for configs that train the same."""
    return repr((config.model, config.training, config.growth, config.accumulate, config.precision))
