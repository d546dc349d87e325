"""Ray Train's trainer, with no process and no library that a run here has no use for: each takes 1.5 to 2 seconds of a
CPU, just when the workers start."""

from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipeline.cluster.ray_internals import drop_needless_callbacks
from pipeline.training.worker_config import WorkerConfig


def lean_trainer(*args: Any, private: bool, timeout: int, **options: Any) -> DataParallelTrainer:
    """A TorchTrainer that hands out no data sets, as workers read their lanes themselves, and computes nothing in the
    driver and in Ray's controller, so that neither loads torch.

    `private`: Ray is this process's own and ends with it, so that nothing is left to clean up. `timeout`: seconds for
    which torch's collectives wait for a worker.
    """
    trainer = DataParallelTrainer(*args, backend_config=LateTorchConfig(timeout_s=timeout), **options)
    drop_needless_callbacks(trainer, private=private)
    return trainer


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


def train_loop_per_worker(worker: WorkerConfig) -> None:
    """The training loop, whose libraries are loaded where it runs."""
    from pipeline.training import loop

    loop.train_loop_per_worker(worker)
