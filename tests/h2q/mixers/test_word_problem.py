"""The word problem of the quaternion group Q₈: which element a product of many is. Turns that do not commute solve it,
a state that only decays or turns about one axis cannot."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from h2q.config import ModelConfig
from h2q.model import ByteModel
from h2q.quaternion import hamilton_product

UNITS = torch.cat((torch.eye(4), -torch.eye(4)))
"""1, i, j, k and their negatives."""
BEGIN, LENGTH, STEPS, RATE = 8, 24, 1000, 1e-2


def words(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BEGIN and random elements, and the product of the elements so far, newest on the left: (count, length + 1)."""
    elements = torch.randint(8, (count, length), generator=generator)
    value, products = UNITS[0].expand(count, 4), [torch.zeros(count, dtype=torch.int64)]
    for element in elements.unbind(1):
        value = hamilton_product(UNITS[element], value)
        products.append((value @ UNITS.T).argmax(1))
    return torch.cat((torch.full((count, 1), BEGIN), elements), 1), torch.stack(products, 1)


@pytest.mark.slow  # Three trainings of half a minute.
@pytest.mark.parametrize(("rotation", "solves"), [("quaternion", True), ("phase", False), ("none", False)])
def test_only_turns_that_do_not_commute_solve_the_word_problem(rotation: Any, solves: bool) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "dim": 32,
        "depth": 1,
        "heads": 1,
        "factor": 1,
        "vocab": 9,
        "seq_len": LENGTH + 1,
        "ffn_expansion": 2,
    }
    one_stream: dict[str, Any] = {"halves": False, "phase_rotation": False, "dropout": 0.0}
    model = ByteModel(ModelConfig(kind="dense", mixer="state", rotation=rotation, **sizes, **one_stream))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * (1 - step / STEPS)
        x, products = words(64, min(LENGTH, 2 + 2 * LENGTH * step // STEPS), generator)  # longer and longer ones
        functional.cross_entropy(model(x).flatten(0, 1), products.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        x, products = words(512, LENGTH, generator)
        right = (model(x).argmax(-1) == products)[:, -1].float().mean().item()
    assert right == 1.0 if solves else right < 0.7, f"{rotation}: {right:.1%} of words; chance is 12.5 %"
