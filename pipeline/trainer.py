"""Ray Train's TorchTrainer, without the processes that a run of ours would start in vain. Each takes 1.5 to 2 seconds
of a CPU, just when the workers start."""

from contextlib import suppress
from typing import Any

from ray.train.torch import TorchTrainer


class LeanTrainer(TorchTrainer):
    """A TorchTrainer that hands out no data sets: workers read their lanes themselves.

    Ray's callbacks and the method that lists them are its own affair: where it renames one, a run starts more slowly.
    """

    def __init__(self, *args: Any, own: bool, **options: Any) -> None:
        """`own`: the Ray is this process's own, and ends with it: nothing is left for anybody to clean up."""
        super().__init__(*args, **options)
        self._needless = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if own else set())

    def _create_default_callbacks(self) -> list[Any]:
        """Ray Train's callbacks, less those that start a process in vain."""
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in self._needless]


def begin_early() -> None:
    """Start an actor that Ray Train's controller will ask for and wait for, while the controller starts itself."""
    with suppress(Exception):
        from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

        coordinator.get_or_create_autoscaling_coordinator()
