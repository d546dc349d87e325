"""The benchmark of a GPU, tried out on a CPU at toy sizes; on a GPU a recorded step is the step."""

import time

import pytest
import torch

from h2q.config import ModelConfig
from h2q.errors import UserError
from h2q.model import ByteModel
from pipeline.benchmark.gpu import Options, run
from pipeline.benchmark.gpu_measure import Bench, Case, captured
from pipeline.benchmark.model import training_step

TINY = ModelConfig(dim=64, depth=2, heads=2, factor=8, fixed_rank=2, seq_len=16, dropout=0.0)


@pytest.mark.ray  # a whole benchmark
def test_every_part_gives_rows_on_a_cpu_and_says_what_it_leaves_out():
    options = Options(
        model=TINY,
        lanes=2,
        times=(1, 2),
        precisions=("fp32", "fp16"),
        seconds=0.005,
        rounds=2,
        streams=2,
        rows=2,
        depths=(2,),
        steps=4,
        seeds=1,
        compile=False,
        device="cpu",
    )
    result = run(options)
    rows = result["rows"]
    assert {row["part"] for row in rows} == {"floor", "train", "write", "learn", "score", "memory"}
    assert all(list(row) == list(rows[0]) for row in rows)
    rates = {(row["case"], row["batch"]): row["rate"] for row in rows}
    for batch in ("2 × 16", "4 × 16"):
        [h2q] = [row for row in rows if row["case"] == "h2q, eager fp32" and row["batch"] == batch]
        assert h2q["× published"] == pytest.approx(h2q["rate"] / rates["published fp32", batch])
    assert rows[-1]["note"] == "left out: they need a CUDA device"
    assert len(result["runs"]["fp32, eager, seed 0"]) == 4


def bench(seconds: float) -> Bench:
    return Bench(torch.device("cpu"), 0.01, 2, time.monotonic() + seconds)


def test_a_case_without_memory_is_a_row_and_not_the_end():
    def make():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 EiB")

    one = bench(60)
    one.time(Case(part="train", name="large", make=make, amount=1))
    one.time(Case(part="train", name="small", make=lambda: lambda: None, amount=1))
    assert one.rows[0]["note"] == "out of memory" and one.rows[0]["rate"] == ""
    assert one.rows[1]["rate"] > 0


def test_a_case_that_comes_too_late_is_left_out():
    late = bench(-1)
    late.time(Case(part="train", name="late", make=lambda: pytest.fail("made"), amount=1))
    assert late.rows[0]["note"] == "left out: the time is up"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_is_one_line_that_says_what_to_do():
    with pytest.raises(UserError, match=r"needs a CUDA device, torch finds none here: .* --device cpu"):
        run(Options())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_recorded_training_step_is_the_eager_one(precision):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    losses = []
    for graph in (False, True):
        torch.manual_seed(0)
        model = ByteModel(TINY).cuda()
        x, y = torch.randint(256, (2, 4, 16), device="cuda")
        step = training_step(model, x, y, dtype, rate=1e-2, scaled=precision == "fp16")
        if graph:
            step = captured(step)
        else:
            for _ in range(3):
                step()
        losses.append(torch.stack([step().clone() for _ in range(20)]))
    assert losses[0][-1] < losses[0][0] - 0.5
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-2)
