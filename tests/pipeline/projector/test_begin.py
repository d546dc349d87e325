"""Where a projector finds its core: behind the core's own address, which no note of the projector holds whole."""

from typing import Any

import torch

from h2q.config import ModelConfig
from h2q.model import ByteModel
from pipeline.config import RunConfig
from pipeline.projector.begin import bound_run, configure, find_projector
from pipeline.projector.core import find_core
from pipeline.runs.checkpoint import Checkpoint, to_host, write_checkpoint
from pipeline.runs.folder import claim_folder
from pipeline.storage.path import locate
from pipeline.training.prologue import public

MODEL = ModelConfig(mixer="state", dim=16, depth=1, heads=1, factor=2, fixed_rank=1, seq_len=8, ngrams="")


def test_a_core_on_a_store_is_found_again_and_its_password_is_not_noted(store: Any) -> None:
    uri = store.uri("bucket/cores")
    run = RunConfig(name="core", storage=uri, model=MODEL)
    claimed = claim_folder(locate(uri), public(run), "laptop", "")
    torch.manual_seed(0)
    weights = to_host(ByteModel(MODEL).state_dict())
    write_checkpoint(
        claimed.checkpoints, Checkpoint(model=weights, optimizer={}, state={"step": 1, "config": public(run).to_dict()})
    )
    asked = ["core", "--storage", uri, "--name", "mine", "--projector.last", "8", "--tracking.no-enabled"]
    options, core = configure(asked, "prog")
    config, _ = bound_run(options, core)
    claim_folder(locate(config.storage), public(config), "projector", "")
    assert not any(b"secret" in content for name, content in store.objects.items() if "/cores/" in name)

    bound, noted = find_projector(core, "mine")
    assert config.projector is not None and noted.projector is not None
    assert bound == config.projector and noted.projector.core != bound.core
    assert all(tensor.equal(weights[name]) for name, tensor in find_core(bound).model.state_dict().items())
    resumed, core = configure([*asked, "--resume"], "prog")
    assert bound_run(resumed, core)[0].projector == bound
