"""What a step costs, measured."""

from h2q.config import ModelConfig
from pipeline.cluster.resources import Resources
from pipeline.config import RunConfig, TrainingConfig
from pipeline.study.budget import step_seconds


def test_a_step_takes_time_with_either_mixer() -> None:
    for mixer in ("attention", "state"):
        model = ModelConfig(dim=32, depth=1, heads=2, factor=4, fixed_rank=1, seq_len=16, mixer=mixer)
        run = RunConfig(model=model, training=TrainingConfig(lanes=2))
        assert step_seconds(run, Resources(gpu=False, cpus=1, threads=1)) > 0
