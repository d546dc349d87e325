"""Whether a run's step becomes a CUDA graph, and what is said where it does not."""

from h2q.errors import require


def use_graph(choice: str, *, cuda: bool, workers: int) -> bool:
    """Whether the option's value (`auto`, `yes`, `no`) means a graph on this device with so many workers.

    Raises: UserError for `yes` where a step cannot be one.
    """
    if choice == "yes":
        require(cuda, "graph yes needs a CUDA device, found a CPU: use --graph auto")
        require(
            workers == 1,
            f"graph yes needs one worker, got {workers}, which exchange gradients within a step: use --workers 1 or "
            "--graph auto",
        )
    return cuda and workers == 1 and choice != "no"


def why_eager(choice: str, *, cuda: bool, workers: int) -> str | None:
    """A line on why the step is no graph where one could be expected; None if there is nothing to tell."""
    if choice != "auto" or use_graph(choice, cuda=cuda, workers=workers) or not cuda:
        return None
    return f"each operation of a step is launched by itself: {workers} workers exchange gradients within it"
