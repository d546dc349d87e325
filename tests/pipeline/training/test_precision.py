"""Precisions: the dtype of matrix products, and a clear word where a device cannot."""

import time

import pytest
import torch

from h2q.errors import UserError
from pipeline.training import precision as room
from pipeline.training.precision import check_precision, chosen_precision, setup_precision


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_on_a_cpu_have_the_dtype_that_was_asked_for(precision: str, dtype: torch.dtype) -> None:
    with setup_precision(precision, torch.device("cpu"))():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_cpu_has_no_tf32() -> None:
    with pytest.raises(UserError, match=r"tf32 needs a CUDA device .* found a CPU: use --precision fp32 or bf16"):
        check_precision("tf32", "cpu")


def test_what_was_not_chosen_is_refused() -> None:
    with pytest.raises(UserError, match="precision auto is for a run that begins: name one here, as --precision fp32"):
        setup_precision("auto", torch.device("cpu"))


@pytest.mark.parametrize(("narrow", "wanted"), [(0.5, "bf16"), (0.95, "fp32"), (40.0, "fp32")])
def test_auto_is_what_products_take_less_time_in_and_says_so(
    narrow: float, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "product_seconds", lambda dtype: narrow if dtype == torch.bfloat16 else 1.0)
    said: list[str] = []
    assert chosen_precision("auto", gpu=False, say=said.append) == wanted
    assert said == [
        f"precision auto: {wanted}, a product in bf16 takes {narrow:.2g} × the time of one in fp32 on this CPU"
    ]
    assert chosen_precision("fp16", gpu=False, say=said.append) == "fp16" and len(said) == 1
    assert chosen_precision("auto", gpu=True, say=said.append) == "bf16" and len(said) == 2


def test_a_product_takes_time() -> None:
    assert 0 < room.product_seconds(torch.float32) < 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_products_on_a_gpu_are_as_exact_as_asked(precision: str) -> None:
    device = torch.device("cuda")
    a, b = torch.randn(2, 256, 256, dtype=torch.float64, device=device)
    with setup_precision(precision, device)():
        error = ((a.float() @ b.float()).double() - a @ b).abs().max().item()
    bounds = {"fp32": (0, 1e-3), "tf32": (1e-3, 0.2), "bf16": (1e-2, 2), "fp16": (1e-3, 0.3)}
    assert bounds[precision][0] <= error <= bounds[precision][1]


def test_what_a_product_waits_for_is_not_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the thread that loads MLflow meanwhile: one run in three would take fp32 where bf16 is twice as fast."""
    linear = torch.nn.functional.linear

    def kept_waiting(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        return linear(x, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", kept_waiting)
    assert room.product_seconds(torch.float32) < 0.2
