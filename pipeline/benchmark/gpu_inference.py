"""What is not training, on a GPU: writing bytes, scoring them, and the memory of the two backward passes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import numpy as np
import torch

from h2q.config import ModelConfig, SamplingConfig
from h2q.decode.cache import Cached, NextLogits, Recomputing
from h2q.decode.graph import Writer
from h2q.generate import stream
from h2q.model import ByteModel
from pipeline.benchmark.gpu_measure import Bench, Case, free_memory
from pipeline.benchmark.gpu_train import set_precision
from pipeline.benchmark.memory import backward, pairs, twins
from pipeline.benchmark.timing import wait
from pipeline.evaluation.replayed import ReplayedScore
from pipeline.evaluation.scoring import score
from pipeline.training.peak import peak_bytes
from pipeline.training.precision import setup_precision


def decoding(bench: Bench, config: ModelConfig, streams: int, precisions: tuple[str, ...]) -> None:
    """Bytes drawn a second behind a full context, slides included: one stream, and so many in step."""
    windows = 4
    for count in (1, streams):
        for precision in precisions:
            if precision != "fp16":
                bench.time(_writing(bench, config, count, windows * config.seq_len, precision))
    for name, few in (("kept, eager", config.seq_len), ("recomputed, eager", config.seq_len // 8)):
        bench.time(_writing_eagerly(bench, config, name, few))


def _writing(bench: Bench, config: ModelConfig, streams: int, length: int, precision: str) -> Case:
    def make() -> Callable[[], object]:
        model = _model(config, bench.device)
        dtype = set_precision(precision, bench.device)
        prompts = [bytes(row) for row in torch.randint(config.vocab, (streams, config.seq_len)).tolist()]
        began = time.perf_counter()
        writer = Writer(model, streams, SamplingConfig(), dtype)
        wait()
        starts.append(time.perf_counter() - began)

        def write() -> None:
            for _ in writer.write(prompts, length, [Random(i) for i in range(streams)]):
                pass

        return write

    starts: list[float] = []
    return Case(
        part="write",
        name=f"{streams:,} stream{'s' if streams > 1 else ''} {precision}",
        make=make,
        amount=streams * length,
        batch=f"{streams} × {length}",
    )


def _writing_eagerly(bench: Bench, config: ModelConfig, name: str, length: int) -> Case:
    def make() -> Callable[[], object]:
        model = _model(config, bench.device)
        set_precision("fp32", bench.device)
        prompt = bytes(torch.randint(config.vocab, (config.seq_len,)).tolist())
        logits: NextLogits = Cached(model, factored=False) if name.startswith("kept") else Recomputing(model)
        return lambda: bytes(stream(model, prompt, length, SamplingConfig(), next_logits=logits))

    return Case(part="write", name=f"1 stream, {name} fp32", make=make, amount=length, batch=f"1 × {length}")


def _model(config: ModelConfig, device: torch.device) -> ByteModel:
    torch.manual_seed(0)
    return ByteModel(config).to(device).eval()


def scoring(config: ModelConfig, rows: int, precisions: tuple[str, ...], device: torch.device) -> Iterator[Case]:
    """Bytes a second of evaluation: tables of windows as `jobs/evaluate.py` makes them, so many windows at a time."""
    for precision in precisions:
        yield _scoring(config, rows, precision, device, graph=False)
        if device.type == "cuda":
            yield _scoring(config, rows, precision, device, graph=True)


def _scoring(config: ModelConfig, rows: int, precision: str, device: torch.device, *, graph: bool) -> Case:
    def make() -> Callable[[], object]:
        model = _model(config, device)
        autocast = setup_precision(precision, device)
        shape = (rows, config.seq_len + 1)
        data = np.random.default_rng(0).integers(config.vocab, size=shape).astype(np.uint8)
        if graph:
            replayed = ReplayedScore(model, config.seq_len, autocast)
            return lambda: replayed(data, 0)
        return lambda: score(model, data, 0, config.seq_len, autocast)

    return Case(
        part="score",
        name=f"evaluation, {'graph' if graph else 'eager'} {precision}",
        make=make,
        amount=rows * config.seq_len,
        batch=f"{rows} × {config.seq_len}",
    )


def backward_memory(bench: Bench, config: ModelConfig, lanes: int, depths: tuple[int, ...], precision: str) -> None:
    """What one forward and backward pass holds at its peak beyond parameters and gradients: stored, and rebuilt."""
    dtype = set_precision(precision, bench.device)
    x = torch.randint(config.vocab, (lanes, config.seq_len), device=bench.device)
    for depth in depths:
        store, reversible = twins(replace(config, depth=depth), bench.device)
        for name, model in pairs(store, reversible):
            try:
                values = {"peak MiB": round(peak_bytes(backward(model, x, dtype), bench.device) / 2**20, 1)}
            except torch.OutOfMemoryError:
                values = {"note": "out of memory"}
            bench.add("memory", f"{name}, depth {depth} {precision}", f"{lanes} × {config.seq_len}", **values)
        del store, reversible, model
        free_memory()
