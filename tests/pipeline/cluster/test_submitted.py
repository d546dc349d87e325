"""A submitted run leaves nothing in its temporary folder: whatever it writes lies under its storage, or is refused."""

from dataclasses import replace

import pytest

from h2q.errors import UserError
from pipeline.cluster.submitted import check_lasting, placed
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray sets for the command of a job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_outside_a_job_a_run_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert placed(RunConfig()) == RunConfig()
    check_lasting("storage", "runs")


@pytest.mark.usefixtures("in_a_job")
def test_what_is_relative_lies_under_the_storage() -> None:
    config = placed(RunConfig(storage="/shared/h2q"))
    assert config.corpus.prepared == "/shared/h2q/data"
    assert config.tracking.uri == "sqlite:////shared/h2q/mlflow.db"
    assert placed(config) == config, "a run that is resumed finds its places again"
    config = placed(RunConfig(storage="s3://bucket/h2q/", tracking=TrackingConfig(uri="http://127.0.0.1:5000")))
    assert (config.storage, config.corpus.prepared) == ("s3://bucket/h2q", "s3://bucket/h2q/data")
    assert config.tracking.uri == "http://127.0.0.1:5000"


@pytest.mark.usefixtures("in_a_job")
def test_what_is_absolute_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(
        storage="/shared/h2q",
        corpus=CorpusConfig(prepared="gs://bucket/data"),
        tracking=TrackingConfig(uri="sqlite:////home/me/mlflow.db"),
    )
    assert placed(config) == config
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert placed(replace(config, tracking=TrackingConfig())).tracking.uri is None, "the environment decides"


@pytest.mark.usefixtures("in_a_job")
def test_what_would_be_lost_is_refused() -> None:
    with pytest.raises(UserError, match="storage must be an absolute path or a URI in a submitted job, got 'runs'"):
        placed(RunConfig())
    with pytest.raises(UserError, match=r"corpus\.prepared must be an absolute path .* --corpus\.prepared"):
        check_lasting("corpus.prepared", "data")
    remote = RunConfig(storage="s3://someone:secret@bucket/h2q")
    with pytest.raises(UserError, match="must name a server where storage is s3://bucket/h2q") as refused:
        placed(remote)
    assert "secret" not in str(refused.value)
    assert placed(replace(remote, tracking=TrackingConfig(enabled=False))).tracking.uri is None
