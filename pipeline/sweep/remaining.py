"""How long the trials that are left will take, from those that ended and the steps that were trained so far."""


class Remaining:
    """The seconds left over all trials, so many of them at a time."""

    def __init__(self, trials: int, steps: int, *, at_once: int) -> None:
        """`trials` left to train, of so many `steps` each, `at_once` of them side by side."""
        self._left = trials
        self._steps = steps
        self._at_once = at_once
        self._began: dict[int, float] = {}
        self._rest: dict[int, float] = {}
        """Of each that runs and has told its pace: seconds to its last step."""
        self._whole: list[float] = []
        """Seconds of trials that ended, their start included; they may have been stopped early."""
        self._expected: float | None = None
        """Seconds of a whole trial, as the first one that told its pace expects it."""

    def started(self, trial: int, now: float) -> None:
        """The trial was begun, or goes on; `now` in seconds on any clock."""
        self._began[trial] = now

    def reached(self, trial: int, step: int, pace: float | None, now: float) -> None:
        """The trial has come to this step, at so many seconds a step; None where nobody knows yet."""
        if pace is not None:
            self._rest[trial] = max(0, self._steps - step) * pace
            if self._expected is None:
                self._expected = now - self._began.get(trial, now) + self._rest[trial]

    def ended(self, trial: int, now: float) -> None:
        """The trial has ended."""
        self._rest.pop(trial, None)
        self._whole.append(now - self._began.pop(trial, now))

    def seconds(self) -> float | None:
        """Seconds left, as if those to come took as long as those before; None before a pace is known."""
        whole = sum(self._whole) / len(self._whole) if self._whole else self._expected
        if whole is None:
            return None
        to_come = max(0, self._left - len(self._whole) - len(self._began))
        running = sum(self._rest.get(trial, whole) for trial in self._began)
        left = to_come * whole + running
        return left / min(self._at_once, max(1, to_come + len(self._began)))
