"""Lanes that are read a byte at a time know what the full forward pass knows."""

import pytest
import torch

from h2q.decode.lanes import SteppedLanes
from h2q.errors import UserError

VARIANTS = [
    {},
    {"rotation": "quaternion"},
    {"kind": "dense", "halves": False, "phase_rotation": False, "dim": 32},
    {"ngrams": "2:50x30,4:40x5", "feed_forward": False, "depth": 3, "final_norm": False},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_and_state_are_those_of_the_full_forward(lively, changes):
    model, x = lively(**changes).eval(), torch.randint(256, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        _, state = model(x[:, :9], state=model.new_state(3))
        whole, end = model(x[:, 9:], state=state)
        lanes = SteppedLanes(model, state)
        steps = torch.stack([lanes.read(byte) for byte in x[:, 9:].t()], dim=1)
    torch.testing.assert_close(steps, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lanes.state, end, rtol=1e-10, atol=1e-10)


def test_a_mixer_that_attends_is_refused(lively):
    model = lively(mixer="both")
    with pytest.raises(UserError, match="mixer is both"):
        SteppedLanes(model, model.new_state(1))
