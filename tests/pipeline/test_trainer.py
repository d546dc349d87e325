"""The trainer starts what a run needs, and nothing else."""

import ray.train
from ray.train.torch import TorchTrainer

from pipeline.trainer import LeanTrainer


def test_needless_callbacks_are_left_out_and_no_others() -> None:
    scaling = ray.train.ScalingConfig(num_workers=1)

    def names(trainer: TorchTrainer) -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    def loop(_: dict) -> None: ...

    all_of_them = names(TorchTrainer(loop, scaling_config=scaling))
    on_a_cluster = names(LeanTrainer(loop, scaling_config=scaling, own=False))
    assert all_of_them - on_a_cluster == {"DatasetsCallback"}
    alone = names(LeanTrainer(loop, scaling_config=scaling, own=True))
    assert on_a_cluster - alone == {"PlacementGroupCleanerCallback"}
