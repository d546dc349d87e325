"""How a cluster is shared out among trials."""

from dataclasses import replace

import pytest

from h2q.errors import UserError
from pipeline.config import PRESETS
from pipeline.sweep.capacity import share_out
from pipeline.sweep.config import SearchConfig, SweepConfig


def sweep(*, workers: int = 1, use_gpu: str = "auto", **search: object) -> SweepConfig:
    run = replace(PRESETS["laptop"], workers=workers, use_gpu=use_gpu)  # type: ignore[arg-type]
    return SweepConfig(run=run, search=SearchConfig(**search))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "nodes", "gpus", "trials", "of_tune"),
    [
        (sweep(), [2], 0, 2, {"CPU": 1}),
        (sweep(concurrency=1), [2], 0, 1, {"CPU": 2}),
        (sweep(trials=3), [8, 8], 0, 3, {"CPU": 4}),
        (sweep(trials=3, seeds=2), [8], 0, 6, {"CPU": 1}),
        (sweep(workers=2), [2], 0, 1, {"CPU": 0, "memory": 1}),
        (sweep(), [8], 1, 1, {"CPU": 8, "GPU": 1}),
        (sweep(gpu_share=0.25), [8], 1, 4, {"CPU": 2, "GPU": 0.25}),
        (sweep(gpu_share=0.4), [8], 1, 2, {"CPU": 4, "GPU": 0.4}),
        (sweep(use_gpu="no"), [4], 1, 4, {"CPU": 1}),
        (sweep(workers=2), [8, 8], 4, 2, {"CPU": 0, "memory": 1}),
    ],
)
def test_trials_share_what_there_is(
    config: SweepConfig, nodes: list[int], gpus: int, trials: int, of_tune: dict[str, float]
) -> None:
    capacity = share_out(config, nodes, gpus)
    assert (capacity.trials, capacity.of_tune) == (trials, of_tune)
    assert capacity.trials * capacity.workers * capacity.resources.cpus <= sum(nodes)


@pytest.mark.parametrize(
    ("config", "nodes", "gpus", "rule"),
    [
        (sweep(workers=4), [2], 0, "a trial of 4 workers needs 4 CPUs, the cluster has 2: use --workers 2"),
        (sweep(concurrency=3), [2], 0, "search.concurrency must be at most the 2 trials that the cluster holds"),
        (sweep(use_gpu="yes"), [2], 0, "the cluster has no GPU: use --use-gpu no"),
        (sweep(workers=2), [2], 1, "a trial of 2 workers needs 2 GPUs, the cluster has 1"),
        (sweep(concurrency=2), [8], 1, "at most the 1 trials that the cluster holds (8 CPUs, 1 GPUs), got 2"),
    ],
)
def test_too_small_a_cluster_is_said(config: SweepConfig, nodes: list[int], gpus: int, rule: str) -> None:
    with pytest.raises(UserError) as raised:
        share_out(config, nodes, gpus)
    assert rule in str(raised.value)
