"""What is noted down of a config: all but the passwords of its addresses."""

import json
from dataclasses import replace

import pytest

from h2q.config import BoundProjector, ModelConfig
from h2q.errors import UserError
from pipeline.config import PRESETS, CorpusConfig, RunConfig
from pipeline.tracking.provenance import flatten
from pipeline.training.prologue import public

SECRET = "hunter2"
ADDRESS = f"s3://someone:{SECRET}@bucket/x?region=nowhere"
BOUND = BoundProjector(core="", sha256="", core_model=ModelConfig(mixer="state"))


def with_option(config: RunConfig, name: str, value: str) -> RunConfig:
    """Another value for an option, by its path."""
    part, _, rest = name.partition(".")
    return replace(config, **{part: replace(getattr(config, part), **{rest: value}) if rest else value})


def test_no_option_that_takes_an_address_is_noted_with_its_password() -> None:
    takers = set()
    for config in (RunConfig(), RunConfig(projector=BOUND)):
        for name, default in flatten(config.to_dict()).items():
            if name.count(".") < 2 and name != "projector" and (default is None or isinstance(default, str)):
                try:
                    given = with_option(config, name, f"text={ADDRESS}@24" if name == "corpus.mix" else ADDRESS)
                except (UserError, TypeError):  # no place, no text
                    continue
                takers.add(name)
                noted = public(given)
                assert SECRET not in json.dumps(noted.to_dict()), name
                assert "bucket/x" in flatten(noted.to_dict())[name], name
    mix = RunConfig(corpus=CorpusConfig(mix="text=s3://me:word@bucket/a@16,image=b@8"))
    assert public(mix).corpus.mix == "text=s3://bucket/a@16,image=b@8"
    places = {"storage", "config", "init_from", "corpus.path", "corpus.prepared", "corpus.cache", "tracking.uri"}
    assert places | {"corpus.mix", "projector.core"} <= takers


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_all_else_is_noted_as_it_is(config: RunConfig) -> None:
    named = replace(config, name="token=3", corpus=replace(config.corpus, separator="\\tkey=@"))
    assert public(named) == named
    assert public(replace(RunConfig(), projector=BOUND)).projector == BOUND
