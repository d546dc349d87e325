"""An exported file is an artifact of the run, and on request of the registered version of its model."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.evaluation.progress import EvaluationProgress
from pipeline.export.config import ExportConfig
from pipeline.export.export import export
from pipeline.export.model_file import read_content
from pipeline.tracking.client import open_client
from pipeline.tracking.registry import register
from pipeline.tracking.store import MLflowStore


@pytest.mark.ray  # whole jobs
def test_a_file_is_registered_with_the_version_of_its_weights(
    tmp_path: Path, tiny: Callable[..., RunConfig], train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.artifacts import download_artifacts

    config = tiny(tmp_path, tracking={"enabled": True})
    _, folder, _ = train(config)
    tracked = folder.mlflow_run()
    store = MLflowStore(config.tracking)
    assert register(folder, "edge", store, tracked["run_id"]) == 1
    options = ExportConfig(
        run=str(folder.path), to=str(tmp_path / "m.h2qm"), tracking=replace(config.tracking, register="edge")
    )
    with EvaluationProgress(Console(file=StringIO())) as progress:
        first = export(options, progress)
        export(replace(options, to=str(tmp_path / "m.html"), format="page", measure=False), progress)
    content = first.path.read_bytes()
    assert any("models:/edge/1/export/m.h2qm" in note for note in first.notes)
    client = open_client(config.tracking.uri or "")
    [version] = client.search_model_versions("name='edge'")  # the same weights: the same version
    assert version.tags["export.h2q"] == f"export/m.h2qm sha256 {hashlib.sha256(content).hexdigest()}"
    assert version.tags["export.page"].startswith("export/m.html sha256 ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", config.tracking.uri or "")
    fetched = download_artifacts("models:/edge/1/export/m.h2qm", dst_path=str(tmp_path / "fetched"))
    assert Path(fetched).read_bytes() == content
    assert read_content(content, "it")[1]["name"] == folder.name
    logged = {file.path for file in client.list_artifacts(tracked["run_id"], "export")}
    assert logged == {"export/m.h2qm", "export/m.html"}


def test_what_cannot_be_registered_is_told_before_there_is_a_file(
    tmp_path: Path, tiny: Callable[..., RunConfig], train: Callable
) -> None:
    config = tiny(tmp_path)
    _, folder, _ = train(config)
    options = ExportConfig(
        run=str(folder.path),
        to=str(tmp_path / "m"),
        tracking=replace(config.tracking, enabled=True, register="edge"),
    )
    with EvaluationProgress(Console(file=StringIO())) as progress:
        with pytest.raises(UserError, match=r"tracking\.register needs a run that was tracked, and run was not"):
            export(options, progress)
        folder.note_mlflow_run("sqlite:////nowhere/mlflow.db", "0123")
        gone = replace(options, tracking=replace(options.tracking, uri=None))
        with pytest.raises(UserError, match=r"store, and sqlite:////nowhere/mlflow\.db is gone"):
            export(gone, progress)
    assert not (tmp_path / "m").exists()
