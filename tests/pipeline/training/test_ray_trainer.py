"""The trainer starts what a run needs, and nothing else; torch is loaded where something is computed."""

import pickle
import subprocess
import sys

import pytest
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipeline.training.ray_trainer import LateTorchConfig, lean_trainer


def test_needless_callbacks_are_left_out_and_no_others() -> None:
    scaling = ray.train.ScalingConfig(num_workers=1)

    def names(trainer: DataParallelTrainer) -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    def loop(_: dict) -> None: ...

    all_of_them = names(TorchTrainer(loop, scaling_config=scaling))
    on_a_cluster = names(lean_trainer(loop, scaling_config=scaling, private=False, timeout=1))
    assert all_of_them - on_a_cluster == {"DatasetsCallback"}
    alone = names(lean_trainer(loop, scaling_config=scaling, private=True, timeout=1))
    assert on_a_cluster - alone == {"PlacementGroupCleanerCallback"}


@pytest.mark.ray  # a program of its own
def test_neither_the_driver_nor_the_controller_loads_torch() -> None:
    # What the driver imports on its way to the end of a run, and what its controller is sent.
    driver = ["training.driver", "training.ray_trainer", "training.summary", "runs.checkpoint", "corpus.lanes"]
    driver += ["training.precision", "cluster.nodes", "training.plots", "tracking.store"]
    sent = pickle.dumps((LateTorchConfig(timeout_s=1).backend_cls(), LateTorchConfig(timeout_s=1)))
    look = f"import pickle, sys; pickle.loads({sent!r}); import {', '.join(f'pipeline.{name}' for name in driver)}; "
    look += "print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout == "False\n"


def test_visible_gpus_are_shared_as_by_rays_own_backend() -> None:
    ours, rays = LateTorchConfig(timeout_s=1).backend_cls, TorchConfig().backend_cls
    assert ours.share_cuda_visible_devices == rays.share_cuda_visible_devices
    assert ours.has_replica_groups == rays.has_replica_groups
