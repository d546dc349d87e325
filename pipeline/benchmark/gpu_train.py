"""Training steps on a GPU: published formulation, this model in every precision, dense twin, floors, kernels.

Shapes: `B` lanes, `T` bytes of context.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.benchmark.gpu_measure import WARM_STEPS, Bench, Case, captured, free_memory
from pipeline.benchmark.model import PRECISIONS, PublishedFormulation, bare_products, training_step
from pipeline.benchmark.timing import wait
from pipeline.training.precision import setup_precision

COMPILE_SECONDS = 90
"""A case under torch.compile is left out when less time than this is left."""

PROFILED_STEPS = 3
TOP = 10
"""Kernels listed."""


def training_cases(
    config: ModelConfig, lanes: int, precisions: tuple[str, ...], device: torch.device, *, compiled: bool = False
) -> Iterator[Case]:
    """All cases of one batch, the most telling first; or those under torch.compile, which take a minute each."""
    cuda = device.type == "cuda"

    def case(name: str, precision: str, build: Callable[[], nn.Module], graph: bool = False, **more: Any) -> Case:
        return Case(
            part="train",
            name=f"{name} {precision}",
            make=lambda: _step(build, config, lanes, precision, device, graph=graph),
            amount=lanes * config.seq_len,
            batch=f"{lanes} × {config.seq_len}",
            **more,
        )

    def h2q() -> ByteModel:
        return ByteModel(config)

    best = "bf16" if "bf16" in precisions else precisions[0]
    if compiled:
        graph = " graph," if cuda else ""
        yield case(f"h2q, compiled,{graph}", best, lambda: _compiled(config), cuda, needs_seconds=COMPILE_SECONDS)
        return
    published = "fp16" if "fp16" in precisions else precisions[0]
    yield case("published", published, lambda: PublishedFormulation(ByteModel(config), checkpointed=True))
    for precision in reversed(precisions):
        yield case("h2q, eager", precision, h2q)
        if cuda:
            yield case("h2q, graph", precision, h2q, graph=True)
    twins = {"dense twin": replace(config, kind="dense"), "with a state": replace(config, mixer="state")}
    for name, twin in twins.items():
        yield case(f"{name}, eager", best, lambda twin=twin: ByteModel(twin))
        if cuda:
            yield case(f"{name}, graph", best, lambda twin=twin: ByteModel(twin), graph=True)
    for precision in precisions:
        if precision != "fp16":
            yield _floor(config, lanes, precision, device)


def _compiled(config: ModelConfig) -> ByteModel:
    model = ByteModel(config)
    model.compile()
    return model


def _step(
    build: Callable[[], nn.Module],
    config: ModelConfig,
    lanes: int,
    precision: str,
    device: torch.device,
    *,
    graph: bool,
) -> Callable[[], object]:
    torch.manual_seed(0)
    model = build().to(device)
    x, y = random_batch(config, lanes, device)
    dtype = set_precision(precision, device)
    if isinstance(model, PublishedFormulation) and device.type == "cuda":
        # The published code switches TF32 on beside autocast.
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    step = training_step(model, x, y, dtype, scaled=precision == "fp16")
    return captured(step) if graph else step


def set_precision(precision: str, device: torch.device) -> torch.dtype:
    """Set torch's switches for this precision; its dtype of matrix products."""
    setup_precision(precision, device)
    return PRECISIONS["fp32" if precision == "tf32" else precision]


def random_batch(config: ModelConfig, lanes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two tensors of random bytes, (B, T)."""
    x, y = (torch.randint(config.vocab, (lanes, config.seq_len), device=device) for _ in range(2))
    return x, y


def _floor(config: ModelConfig, lanes: int, precision: str, device: torch.device) -> Case:
    def make() -> Callable[[], object]:
        dtype = set_precision(precision, device)
        x, _ = random_batch(config, lanes, device)
        products = bare_products(config, x, dtype, attention=True)
        return captured(products) if device.type == "cuda" else products

    return Case(
        part="floor",
        name=f"bare products {precision}",
        make=make,
        amount=lanes * config.seq_len,
        batch=f"{lanes} × {config.seq_len}",
    )


def device_floors(device: torch.device, size: int, copied: int) -> Iterator[Case]:
    """What the card gives: one large product of size³ in bfloat16, and a copy of so many bytes."""

    def product() -> Callable[[], object]:
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        return lambda: a @ b

    def copy() -> Callable[[], object]:
        source, target = (torch.zeros(copied, dtype=torch.uint8, device=device) for _ in range(2))
        return lambda: target.copy_(source)

    yield Case(part="floor", name=f"product {size}³ bf16", make=product, amount=2e-12 * size**3, unit="TFLOP/s")
    gigabytes = 2e-9 * copied  # Read and written.
    yield Case(part="floor", name=f"copy {copied >> 20} MiB", make=copy, amount=gigabytes, unit="GB/s")


def kernels(bench: Bench, config: ModelConfig, lanes: int, precision: str) -> None:
    """Where an eager step's time goes on the device: launches, time of all kernels, and those that take most."""
    work = _step(lambda: ByteModel(config), config, lanes, precision, bench.device, graph=False)
    for _ in range(WARM_STEPS):
        work()
    wait()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(PROFILED_STEPS):
            work()
        wait()
    found = [
        event
        for event in profiler.key_averages()
        if str(event.device_type).endswith("CUDA") and not getattr(event, "is_user_annotation", False)
    ]
    found.sort(key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in found)
    launches = sum(event.count for event in found) / PROFILED_STEPS
    batch = f"{lanes} × {config.seq_len}"
    bench.add("kernels", f"all, {precision}", batch, ms=total / PROFILED_STEPS / 1e3, rate=launches, unit="launches")
    for event in found[:TOP]:
        each, share = event.self_device_time_total / PROFILED_STEPS / 1e3, 100 * event.self_device_time_total / total
        count = f"{event.count / PROFILED_STEPS:g} launches"
        bench.add("kernels", event.key[:70], batch, ms=each, rate=share, unit="%", note=count)
    free_memory()
