"""A preparation on the terminal, or as a line for each tenth of it."""

from rich.console import Console

from pipeline.events import Event
from pipeline.terminal import Display


class PreparationProgress(Display):
    """Bytes, rate and time left on a live line; in a log, where it may take hours, a line for each tenth."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._said = "", 0

    def preparing(self, event: Event) -> None:
        super().preparing(event)
        if event.kind == "note" or self._console.is_terminal or not event.total:
            return
        stage, tenths = self._said if self._said[0] == event.text else (event.text, 0)
        if 10 * event.done // event.total > tenths:
            self._said = stage, 10 * event.done // event.total
            self.say(f"{event.text}: {event.done:,} of {event.total:,} bytes")
