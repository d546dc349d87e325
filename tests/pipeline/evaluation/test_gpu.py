"""What a GPU computes beside what a CPU does: scoring, evaluation, checkpoints, memory. Needs torch, and no Ray.

On a machine without one the parts that run anywhere are checked on the CPU.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.benchmark.memory import backward, twins
from pipeline.evaluation.replayed import ReplayedScore
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import plan
from pipeline.training.peak import peak_bytes
from pipeline.training.precision import setup_precision
from pipeline.training.validate import batch_rows, bits_per_byte

gpu = pytest.mark.gpu
SMALL = ModelConfig(dim=64, depth=2, heads=2, factor=8, fixed_rank=2, seq_len=16, dropout=0.1)


class Bytes:
    """A stream of bytes in memory."""

    name, sha256, alphabet = "test", "", 256

    def __init__(self, size: int) -> None:
        self._data = np.random.default_rng(0).integers(256, size=size).astype(np.uint8)

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._data[start:stop]

    def stream(self) -> Iterator[np.ndarray]:
        yield self._data


def lively(config: ModelConfig = SMALL) -> ByteModel:
    """A model whose every parameter carries something."""
    torch.manual_seed(0)
    model = ByteModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.15)
    return model.eval()


def tally(model: ByteModel, data: Bytes, precision: str, *, replayed: bool) -> Tally:
    autocast, found = setup_precision(precision, model.pos_emb.device), Tally.empty(16)
    again = ReplayedScore(model, 16, autocast)
    for windows in plan(len(data), window=16, stride=5):
        rows = windows.read(data)
        found.add(again(rows, windows.skip) if replayed else score(model, rows, windows.skip, 16, autocast))
    return found


def test_a_batch_is_replayed_as_it_is_scored():
    data, model = Bytes(3000), lively()
    kept, plain = (tally(model, data, "fp32", replayed=replayed).table for replayed in (True, False))
    assert np.array_equal(kept, plain)


def test_many_bytes_are_scored_at_a_time_whatever_the_context():
    assert [batch_rows("cuda", length) for length in (128, 256, 1 << 20)] == [512, 256, 64]
    assert [batch_rows("cpu", length) for length in (16, 256, 4096)] == [256, 16, 16]


@gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2), ("fp16", 2e-3)])
def test_a_gpu_scores_as_a_cpu_does(precision: str, tolerance: float):
    data, model = Bytes(3000), lively()
    wanted = tally(model, data, "fp32", replayed=False)
    model.cuda()
    plain, kept = (tally(model, data, precision, replayed=replayed) for replayed in (False, True))
    assert plain.bits == pytest.approx(wanted.bits, rel=tolerance)
    assert np.array_equal(plain.table[1], wanted.table[1])
    assert kept.bits == pytest.approx(plain.bits, rel=1e-6)


@gpu
def test_bits_per_byte_on_a_gpu_are_those_of_a_cpu():
    data: Any = Bytes(5000)
    model, found = lively(), []
    for device in (torch.device("cpu"), torch.device("cuda")):
        place: Any = SimpleNamespace(world_rank=0, world_size=1, device=device, sum=lambda tensor: tensor)
        found.append(bits_per_byte(model.to(device), data, place, setup_precision("fp32", device)))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@gpu
def test_weights_go_from_cpu_to_gpu_and_back_bit_for_bit():
    config = ModelConfig(**{**SMALL.to_dict(), "max_rank": 4})
    model = lively(config)
    model.set_ranks(2, 3)
    there = ByteModel(config).cuda()
    there.load_state_dict(load(save({name: tensor.clone() for name, tensor in model.state_dict().items()})))
    assert (there.mixer_rank, there.ffn_rank) == (2, 3) and there.pos_emb.is_cuda
    back = ByteModel(config)
    back.load_state_dict(load(save({name: tensor.cpu().clone() for name, tensor in there.state_dict().items()})))
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@gpu
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("memory", ["store", "reversible"])
def test_gradients_on_a_gpu_are_those_of_a_cpu(memory: str, precision: torch.dtype, tolerance: float):
    config = ModelConfig(**{**SMALL.to_dict(), "memory": memory, "dropout": 0.0})
    x, y = torch.randint(256, (2, 3, 16))
    found = []
    for device in ("cpu", "cuda"):
        model = lively(config).to(device, precision)
        functional.cross_entropy(model(x.to(device)).flatten(0, 1), y.to(device).flatten()).backward()
        parts = [parameter.grad.flatten().cpu() for parameter in model.parameters() if parameter.grad is not None]
        found.append(torch.cat(parts))
    assert (found[0] - found[1]).norm() <= tolerance * found[0].norm()


@gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_memory_of_the_reversible_stack_is_flat_in_depth(precision: torch.dtype):
    """The most that the allocator holds during one forward and backward pass of a second step, beyond what it held
    before it: activations and temporary memory, the gradients of parameters already there. 48 blocks against 12, at
    the published sizes of H2Q and its batch."""
    device, peaks = torch.device("cuda"), {}
    for depth in (12, 48):
        config = ModelConfig(depth=depth, dropout=0.0)
        x = torch.randint(256, (24, 128), device=device)
        store, reversible = twins(config, device)
        del store
        peaks[depth] = peak_bytes(backward(reversible, x, precision), device)
        del reversible
        torch.cuda.empty_cache()
    assert peaks[48] <= 1.15 * peaks[12], peaks
