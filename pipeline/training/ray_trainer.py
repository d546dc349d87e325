"""Ray Train's trainer, with no process and no library that a run of ours has no use for: each takes 1.5 to 2 seconds
of a CPU, just when the workers start."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class LeanTrainer(DataParallelTrainer):
    """A TorchTrainer that hands out no data sets, as workers read their lanes themselves, and computes nothing in the
    driver and in Ray's controller, so that neither loads torch.

    Ray's callbacks and the method that lists them are its own affair: where it renames one, a run starts more slowly.
    """

    def __init__(self, *args: Any, own: bool, timeout: int, **options: Any) -> None:
        """`own`: the Ray is this process's own, and ends with it: nothing is left for anybody to clean up. `timeout`:
        seconds for which the collectives of torch wait for a worker."""
        super().__init__(*args, backend_config=LateTorchConfig(timeout_s=timeout), **options)
        self._needless = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if own else set())

    def _create_default_callbacks(self) -> list[Any]:
        """Ray Train's callbacks, less those that start a process in vain."""
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in self._needless]


@dataclass
class LateTorchConfig(BackendConfig):
    """Ray's TorchConfig, which is loaded, and torch with it, where several workers are to be connected."""

    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        return _LateTorch


class _LateTorch(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        if len(worker_group) > 1:
            worker_group.execute_async(_load)
            backend, config = _torch_backend(backend_config)
            backend.on_start(worker_group, config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        if len(worker_group) > 1:
            backend, config = _torch_backend(backend_config)
            backend.on_shutdown(worker_group, config)


def _torch_backend(late: LateTorchConfig) -> tuple[Backend, BackendConfig]:
    from ray.train.torch import TorchConfig

    config = TorchConfig(timeout_s=late.timeout_s)
    return config.backend_cls(), config


def _load() -> None:
    """In a worker: what it will need, while the controller does other things."""
    import pipeline.training.loop  # noqa: F401


def train_loop_per_worker(order: dict[str, Any]) -> None:
    """The training loop, whose libraries are loaded where it runs."""
    from pipeline.training import loop as worker

    worker.train_loop_per_worker(order)


def begin_early() -> None:
    """Start an actor that Ray Train's controller will ask for and wait for, while the controller starts itself."""
    with suppress(Exception):
        from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

        coordinator.get_or_create_autoscaling_coordinator()
