"""What a training costs in each currency, and how many steps a budget allows."""

import time
from statistics import median

import torch

from h2q.baselines import generation, multiply_adds
from h2q.errors import require
from pipeline.cluster.resources import Resources
from pipeline.config import RunConfig
from pipeline.study.config import StudyOptions
from pipeline.training.graph_rule import use_graph
from pipeline.training.precision import setup_precision
from pipeline.training.step import make_step
from pipeline.training.train_state import new_train_state

UNTIMED, TIMED = 3, 9
"""Steps before and while time is measured."""


def step_seconds(run: RunConfig, resources: Resources) -> float:
    """CPU time of this process for a step of the run, all its threads together, which other programs change little; on
    a GPU the time of the clock. Median over steps on random bytes."""
    device = torch.device("cuda" if resources.gpu else "cpu")
    torch.set_num_threads(resources.threads)
    state, autocast = new_train_state(run, device), setup_precision(run.precision, device)
    graph = use_graph(run.graph, cuda=resources.gpu, workers=1)
    step = make_step(state, state.model, run, autocast, graph=graph)
    x, y = (torch.randint(run.model.vocab, (run.training.lanes, run.chunk), device=device) for _ in range(2))
    taken = []
    for _ in range(UNTIMED + TIMED):
        began = _now(device)
        step(x, y, detailed=False)
        taken.append(_now(device) - began)
    return median(taken[UNTIMED:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def step_multiply_adds(run: RunConfig) -> float:
    """Of the forward pass of a step, weights made once in it. A step takes three times as many, with its gradients."""
    return run.bytes_per_step * multiply_adds(run.model) + generation(run.model)


def steps_within(study: StudyOptions, run: RunConfig, seconds: float) -> int:
    """Steps of the run, each of so many seconds, that the budget allows.

    Raises: UserError for less than one.
    """
    cost = {"seconds": seconds, "multiply-adds": step_multiply_adds(run), "bytes": run.bytes_per_step}[study.currency]
    require(
        study.amount >= cost,
        f"study.budget must be enough for a step, {study.currency}:{cost:.6g} or more, got {study.budget}: raise it",
    )
    return int(study.amount / cost)
