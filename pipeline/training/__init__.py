"""Training: the driver, the loop that every worker runs, the optimizer step."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import RunConfig
    from pipeline.training.driver import TrainingResult


def train(
    config: "RunConfig", *, preset: str = "python", command: str = "", console: "Console | None" = None
) -> "TrainingResult":
    """Train a run from Python or a notebook, as `python jobs/train.py` does: summary, folder, and what stopped it.

    `preset`, `command`: what the run's name and its notes say of its origin. `console`: where progress is shown; None:
    nowhere.
    Raises: UserError for what can be mended; TrainingFailed.
    """
    from io import StringIO

    from rich.console import Console

    from pipeline.training.driver import train as train_run

    quiet = Console(file=StringIO())
    return train_run(config, preset=preset, command=command or "pipeline.training.train", console=console or quiet)
