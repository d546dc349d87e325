"""How long the trials that are left will take, from the steps that were trained so far."""


class Remaining:
    """The seconds left over all trials: steps still to train, at the pace of this start of the sweep."""

    def __init__(self, trials: int, steps: int, *, began: float) -> None:
        """`trials` left to train, of so many `steps` each; `began`: now, in seconds on any clock."""
        self._left = trials
        self._steps = steps
        self._began = began
        self._running: dict[int, int] = {}
        self._ended: list[int] = []
        """Steps of the trials that have ended, which may have been stopped early."""

    def reached(self, trial: int, step: int) -> None:
        """The trial has come to this step."""
        self._running[trial] = step

    def ended(self, trial: int, step: int) -> None:
        """The trial has ended, at this step."""
        self._running.pop(trial, None)
        self._ended.append(step)

    def seconds(self, now: float) -> float | None:
        """Seconds left, as if those to come were stopped as early as those before; None before a step was timed."""
        done = sum(self._ended) + sum(self._running.values())
        if not done:
            return None
        usual = sum(self._ended) / len(self._ended) if self._ended else self._steps
        to_come = max(0, self._left - len(self._ended) - len(self._running))
        rest = sum(max(0, self._steps - step) for step in self._running.values())
        return (to_come * usual + rest) * (now - self._began) / done
