"""What a projector does on a GPU is what it does on a CPU: its core is read, it writes, and its gradients."""

import pytest
import torch

from h2q.config import BoundProjector
from h2q.projector import Projector
from tests.pipeline.projector.test_core import DECODER
from tests.pipeline.projector.test_score import TEXT, new_core, read


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{"mixer": "state", "ngrams": "2:16x4"}, {"mixer": "both", "final_norm": False}])
def test_a_gpu_reads_and_writes_as_a_cpu(changes: dict[str, str]) -> None:
    core = new_core(**changes)
    asked = BoundProjector(core="", sha256="", core_model=core.model.config, last=16, next=4, rank=6)
    torch.manual_seed(0)
    model, found = Projector(DECODER, asked).eval(), []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for device in (torch.device("cpu"), torch.device("cuda")):
        core.to(device)
        model.to(device).zero_grad()
        text = torch.cat([read(TEXT, start, start + 64) for start in (0, 100)]).to(device)
        features, state = core.moment(text, core.new_state(2))
        model.standardise(torch.cat((features, -features)))
        last, ahead = model(features, model.in_order(text[:, -16:]), text[:, :4])
        (last.square().mean() + ahead.square().mean()).backward()
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        parts = (features, state, last, torch.cat(gradients))
        found.append([part.detach().flatten().cpu() for part in parts])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
