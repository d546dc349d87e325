"""The step as a CUDA graph: where it is one, and that it computes what the eager step computes.

The tests on a GPU need torch alone: `pytest --noconftest -m gpu` with this file runs them without Ray.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from h2q.alphabet import ALPHABET, MARKERS
from h2q.block import Block, prepare_weights
from h2q.config import GrowthConfig, ModelConfig
from h2q.errors import UserError
from h2q.growth import RankGrowth, grow
from h2q.model import ByteModel
from pipeline.config import PRESETS, RunConfig, TrainingConfig
from pipeline.training.flops import bf16_peak, model_flops, utilisation
from pipeline.training.graph_rule import use_graph, why_eager
from pipeline.training.optimizer import build_optimizer, set_learning_rate
from pipeline.training.out_of_memory import ran_out, too_large
from pipeline.training.precision import setup_precision
from pipeline.training.step import Step, make_step
from pipeline.training.train_state import Diverged, TrainState

CONFIG = RunConfig(
    model=ModelConfig(dim=64, depth=2, heads=2, factor=4, fixed_rank=2, max_rank=3, seq_len=16, dropout=0.1),
    training=TrainingConfig(lanes=8, learning_rate=1e-2),
    growth=GrowthConfig(enabled=True, warmup=2, interval=2, window=1, lookback=1, rank_warmup=3),
)
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
MODES: list[dict[str, Any]] = [
    {},
    {"accumulate": 2},
    {"memory": "reversible"},
    {"kind": "dense", "max_rank": None},
    {"phase_rotation": False, "halves": False},
    {"mixer": "state", "ngrams": "2:64x8,3:64x8"},
    {"mixer": "both", "rotation": "quaternion", "feed_forward": False},
    {"mixer": "state", "strides": "auto", "vocab": ALPHABET, "ngrams": "2:64x8"},
    {"mixer": "state", "factors": "per-block"},
]
STATE: dict[str, Any] = {"mixer": "state", "ngrams": "2:64x8"}


@pytest.mark.parametrize("choice", ["auto", "yes", "no"])
def test_a_graph_is_used_where_it_can_be(choice: str) -> None:
    assert use_graph(choice, cuda=True, workers=1) == (choice != "no")
    assert why_eager(choice, cuda=True, workers=1) is None


def test_where_no_graph_can_be_auto_does_without_and_yes_is_refused() -> None:
    assert not use_graph("auto", cuda=False, workers=1) and not use_graph("no", cuda=False, workers=2)
    assert why_eager("auto", cuda=False, workers=1) is None, "nobody expects one on a CPU"
    with pytest.raises(UserError, match=r"graph yes needs a CUDA device, found a CPU: use --graph auto"):
        use_graph("yes", cuda=False, workers=1)


def test_several_workers_do_without_and_say_so() -> None:
    assert not use_graph("auto", cuda=True, workers=2)
    said = why_eager("auto", cuda=True, workers=2)
    assert said is not None and "2 workers exchange gradients" in said
    assert why_eager("no", cuda=True, workers=2) is None, "it was asked for"
    with pytest.raises(UserError, match=r"needs one worker, got 2.*use --workers 1 or --graph auto"):
        use_graph("yes", cuda=True, workers=2)


@pytest.mark.parametrize("changes", [{}, {"phase_rotation": False}, {"halves": False}, {"head_layout": "published"}])
def test_weights_made_for_all_blocks_at_once_are_those_made_block_by_block(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ByteModel(replace(CONFIG.model, init="published", dropout=0.0, **changes))
    model.set_ranks(mixer=2, ffn=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert model.bank is not None
    matrices = model.bank.matrices(3)
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    x = torch.randn(2, 16, model.config.width)

    def run(sources: list[Any]) -> tuple[Tensor, list[Tensor]]:
        outputs = [block.mixer_branch(x, sources[0], torch.float32)[0] for block in blocks]
        outputs += [block.ffn_branch(x, sources[1], torch.float32) for block in blocks]
        total = torch.stack(outputs)
        layers = [parameter for block in blocks for parameter in block.parameters()]
        return total, list(torch.autograd.grad(total.square().sum(), layers, retain_graph=True))

    singly = run([matrices[:2], matrices])
    together = run([prepare_weights(blocks, matrices[:2], matrices, torch.float32)] * 2)
    for one, other in zip((singly[0], *singly[1]), (together[0], *together[1]), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-3)


def test_utilisation_counts_what_the_model_multiplies() -> None:
    config = ModelConfig(kind="dense", dim=64, depth=3, heads=2, seq_len=7, halves=False, ffn_expansion=4)
    blocks = 3 * (4 * 64 * 64 + 2 * 4 * 64 * 64 + 2 * 64 * 4)  # a byte sees 4 of 7 on average
    assert model_flops(config) == 6 * (blocks + 64 * 256)
    assert utilisation(config, 1e6, "NVIDIA H100 80GB HBM3") == {"mfu": model_flops(config) * 1e6 / 989e12}
    assert utilisation(config, 1e6, "CPU (2 threads)") == {}


def test_a_peak_is_that_of_the_device_of_this_name() -> None:
    assert bf16_peak("NVIDIA H100 PCIe") == 756e12 and bf16_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert bf16_peak("NVIDIA L40S") == 362e12 and bf16_peak("NVIDIA L4") == 121e12
    assert bf16_peak("NVIDIA GeForce RTX 4070 Ti") == 80e12
    assert bf16_peak("NVIDIA GeForce RTX 4070") is None and bf16_peak("NVIDIA GeForce RTX 4090 Laptop GPU") is None


def test_memory_that_is_full_is_one_line_with_what_to_do() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert ran_out(caught.value) and not ran_out(RuntimeError("another"))
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    line = str(too_large(PRESETS["h2q"], "NVIDIA L4"))
    assert "NVIDIA L4, but 24 rows of 128 bytes do not" in line and "\n" not in line
    assert "raise --accumulate to 2, use --model.memory reversible or lower --training.lanes" in line
    one = replace(PRESETS["laptop"], accumulate=8, model=replace(PRESETS["laptop"].model, memory="reversible"))
    assert str(too_large(one, "NVIDIA L4")).endswith(
        "1 rows of 128 bytes do not: lower --model.seq-len, --model.dim or --model.depth"
    )
    state = replace(PRESETS["laptop"].model, mixer="state")
    far = replace(one, model=state, training=replace(one.training, horizon=64))
    assert "1 rows of 8192 bytes do not" in str(too_large(far, "NVIDIA L4"))
    assert "lower --training.horizon, through whose 64 chunks" in str(too_large(far, "NVIDIA L4"))


class Run:
    """A model in training on the GPU, step by step, as the training loop does it."""

    def __init__(self, *, graph: bool, precision: str = "fp32", config: RunConfig = CONFIG, **changes: Any) -> None:
        accumulate = changes.pop("accumulate", 1)
        growth = replace(config.growth, enabled=changes.pop("growing", False))
        model_config = replace(config.model, **changes)
        self.config = replace(config, precision=precision, accumulate=accumulate, model=model_config, growth=growth)  # type: ignore[arg-type]
        self.device = torch.device("cuda", 0)
        autocast = setup_precision(precision, self.device)
        torch.manual_seed(0)
        model = ByteModel(self.config.model).to(self.device)
        scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")  # type: ignore[attr-defined]
        room = model_config.storage_rank - model_config.fixed_rank
        optimizer = build_optimizer(model, self.config.training)
        self.train_state = TrainState(
            model, optimizer, scaler, RankGrowth(growth, room), about={"config": self.config.to_dict()}, rows=8
        )
        self.step: Step = make_step(self.train_state, model, self.config, autocast, graph=graph)

    @property
    def carries(self) -> bool:
        return self.config.model.carries

    def go(self, first: int, last: int, lanes: int = 8) -> Tensor:
        """Losses of the steps from `first` to before `last`, on the host."""
        losses = []
        for number in range(first, last):
            self.train_state.counters.step = number
            set_learning_rate(self.train_state.optimizer, 1e-2 * (1 - number / 100))
            torch.manual_seed(number)
            x, y = batch(number, lanes, self.config.model.seq_len, marked=self.config.model.vocab == ALPHABET)
            measured = self.step(x, y, detailed=number % 5 == 0, reset=resets(x, number) if self.carries else None)
            losses.append(measured["loss"])
            if self.train_state.growth.config.enabled:
                self.train_state.note([float(measured["loss"])])
                if self.train_state.growth.decide():
                    grow(self.train_state.model, "all")
        return torch.stack(losses).cpu()

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments and counts, on the host."""
        snapshot = self.train_state.snapshot()
        counts = {"skipped": self.train_state.skipped.cpu()}
        return snapshot.model | snapshot.optimizer | counts | {"carried": self.train_state.carried.cpu()}


def batch(number: int, lanes: int, length: int, *, marked: bool = False) -> tuple[Tensor, Tensor]:
    """Ramps of bytes; if `marked` a picture of 2 × 2 pixels, header and all, stands in each lane."""
    generator = torch.Generator().manual_seed(number)
    starts = torch.randint(200, (lanes, 1), generator=generator)
    data = (starts + 3 * torch.arange(length + 1)) % 200
    if marked:
        data[:, 2:8] = torch.tensor((MARKERS["image"], 0, 2, 0, 2, 1))
    data = data.cuda()
    return data[:, :-1].contiguous(), data[:, 1:].contiguous()


def resets(x: Tensor, number: int) -> Tensor | None:
    """At every third step one lane forgets its state somewhere."""
    if number % 3:
        return None
    found = torch.zeros_like(x, dtype=torch.bool)
    found[number % len(x), number % x.shape[1]] = True
    return found


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} differ, the first {different[:3]}"


@contextmanager
def poisoned(train_state: TrainState) -> Iterator[None]:
    """Inside, a weight that is not finite makes the gradient so, too; then it is what it was."""
    weight = train_state.model.pos_emb.data
    before = weight[0, 0, 0].clone()
    weight[0, 0, 0] = float("nan")
    yield
    weight[0, 0, 0] = before


@pytest.mark.gpu
@pytest.mark.parametrize("changes", MODES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_computes_what_the_eager_step_computes(precision: str, changes: dict[str, Any]) -> None:
    """Bit for bit: the same kernels in the same order, on the same random numbers."""
    eager, graph = (Run(graph=graph, precision=precision, **changes) for graph in (False, True))
    wanted, found = eager.go(0, 30), graph.go(0, 30)
    assert wanted[-5:].mean() < 0.9 * wanted[:5].mean(), "it learns"
    assert torch.equal(found, wanted), f"largest difference {(found - wanted).abs().max()}"
    assert_equal(graph.tensors(), eager.tensors())


@pytest.mark.gpu
@pytest.mark.parametrize("detailed", [False, True])
def test_a_capture_changes_nothing(detailed: bool) -> None:
    for precision in ("fp32", "fp16"):
        run = Run(graph=True, precision=precision)
        run.go(1, 3)
        before, random = run.tensors(), torch.cuda.get_rng_state()
        scale = run.train_state.scaler.state_dict()
        captured: Any = make_step(
            run.train_state, run.train_state.model, run.config, setup_precision(precision, run.device)
        )
        from pipeline.training.graph import CapturedStep

        step = CapturedStep(captured, run.train_state)
        x, y = batch(0, 8, 16)
        step._prepare(x, y, None)
        step._capture(detailed)
        assert_equal(run.tensors(), before)
        assert torch.equal(torch.cuda.get_rng_state(), random) and run.train_state.scaler.state_dict() == scale


@pytest.mark.gpu
@pytest.mark.parametrize("first", [False, True], ids=["from eager", "from graph"])
@pytest.mark.parametrize("second", [False, True], ids=["to eager", "to graph"])
def test_a_run_that_goes_on_from_a_snapshot_ends_the_same(first: bool, second: bool) -> None:
    for precision, changes in (("fp32", {}), ("bf16", {}), ("fp16", {}), ("fp32", STATE), ("bf16", STATE)):
        whole = Run(graph=first, precision=precision, growing=True, **changes)
        whole.go(0, 7)
        snapshot = whole.train_state.snapshot()
        losses = whole.go(7, 20)
        resumed = Run(graph=second, precision=precision, growing=True, **changes)
        resumed.train_state.restore(snapshot)
        assert torch.equal(resumed.go(7, 20), losses), precision
        assert_equal(resumed.tensors(), whole.tensors())


@pytest.mark.gpu
def test_a_run_that_goes_back_to_a_snapshot_of_its_own_goes_the_same_way_again() -> None:
    run = Run(graph=True, precision="bf16")
    run.go(0, 6)
    snapshot = run.train_state.snapshot()
    losses = run.go(6, 12)
    with poisoned(run.train_state):
        run.go(12, 16)
    with pytest.raises(Diverged):
        run.train_state.check_divergence(4)
    run.train_state.restore(snapshot)
    assert torch.equal(run.go(6, 12), losses)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{"accumulate": 2}, STATE], ids=str)
def test_one_worker_of_a_group_steps_as_one_without(changes: dict[str, Any], tmp_path: Path) -> None:
    """Gradients exchanged by NCCL among one are those that were there."""
    alone, grouped = (Run(graph=False, precision="bf16", **changes) for _ in range(2))
    group: Any = torch.distributed
    group.init_process_group(
        {"cuda": "nccl", "cpu": "gloo"}[grouped.device.type],
        init_method=f"file://{tmp_path}/group",
        rank=0,
        world_size=1,
    )
    try:
        forward = DistributedDataParallel(grouped.train_state.model)
        autocast = setup_precision("bf16", grouped.device)
        grouped.step = make_step(grouped.train_state, forward, grouped.config, autocast)
        assert torch.equal(grouped.go(0, 10), alone.go(0, 10))
        assert_equal(grouped.tensors(), alone.tensors())
    finally:
        group.destroy_process_group()


@pytest.mark.gpu
def test_a_model_grows_under_a_graph() -> None:
    eager, graph = (Run(graph=graph, growing=True, memory="store") for graph in (False, True))
    wanted, found = eager.go(0, 30), graph.go(0, 30)
    assert eager.train_state.growth.grown_at == graph.train_state.growth.grown_at != []
    assert graph.train_state.model.rank == 3
    assert torch.equal(found, wanted)
    assert_equal(graph.tensors(), eager.tensors())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_under_a_graph_a_gradient_that_is_not_finite_changes_nothing(precision: str) -> None:
    run = Run(graph=True, precision=precision)
    run.go(0, 3)
    before = run.tensors()
    with poisoned(run.train_state):
        run.go(3, 5)
    after = run.tensors()
    count = int(before.pop("skipped")[0])  # fp16's first scale may be too large
    assert after.pop("skipped").tolist() == [count + 2, 2]
    assert_equal(after, before)
    assert run.go(5, 8).isfinite().all()
    run.train_state.check_divergence(2)
    assert run.train_state.counters.skipped == count + 2


@pytest.mark.gpu
def test_under_a_graph_dropout_follows_the_seed_of_the_step() -> None:
    run = Run(graph=True, dropout=0.5)
    x, y = batch(0, 8, 16)
    set_learning_rate(run.train_state.optimizer, 0.0)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(run.step(x, y, detailed=False)["loss"])

    first, second, again = loss(1), loss(2), loss(1)
    assert first != second and first == again


@pytest.mark.gpu
def test_what_a_step_returns_is_not_changed_by_the_next() -> None:
    run = Run(graph=True)
    kept = [run.step(*batch(number, 8, 16), detailed=True) for number in range(3)]
    assert len({float(measured["loss"]) for measured in kept}) == 3
    assert len({float(measured["gradient_norm"]) for measured in kept}) == 3


@pytest.mark.gpu
def test_another_shape_is_captured_anew() -> None:
    eager, graph = (Run(graph=graph) for graph in (False, True))
    for first, lanes in ((0, 8), (5, 4), (10, 8)):
        assert torch.equal(graph.go(first, first + 5, lanes), eager.go(first, first + 5, lanes))


@pytest.mark.gpu
def test_under_a_graph_the_memory_of_the_reversible_mode_does_not_grow_with_depth() -> None:
    def activations(memory: str, depth: int) -> int:
        wide = replace(CONFIG, model=replace(CONFIG.model, dim=256, factor=32, seq_len=128, dropout=0.0))
        run = Run(graph=True, precision="bf16", config=wide, memory=memory, depth=depth)
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
        run.go(1, 3, lanes=64)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        weights = sum(parameter.numel() * 4 for parameter in run.train_state.model.parameters())
        return torch.cuda.memory_reserved() - held - 3 * weights  # moments and gradients

    flat, stored = (activations(memory, 12) - activations(memory, 4) for memory in ("reversible", "store"))
    assert flat < 0.2 * stored, (flat, stored)


@pytest.mark.gpu
def test_memory_that_is_full_is_said_so_by_a_capture() -> None:
    run = Run(graph=True)
    x, y = batch(0, 1 << 14, 16)
    gc.collect()
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + (64 << 20)
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            run.step(x, y, detailed=False)
        assert ran_out(caught.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_one_launch_is_a_step() -> None:
    from torch.profiler import ProfilerActivity, profile

    run = Run(graph=True, precision="bf16")
    run.go(1, 3)

    def launches(work: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
        return sum(event.name.startswith(("cudaLaunchKernel", "cudaGraphLaunch")) for event in profiler.events() or ())

    x, y = batch(0, 8, 16)
    assert launches(lambda: run.step(x, y, detailed=False)) < 10  # the graph, two copies in, one out, random state
