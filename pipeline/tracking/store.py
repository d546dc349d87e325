"""MLflow's store and the experiment in it, and what a run there begins with: options, data set, where it comes from."""

import json
from contextlib import suppress
from typing import Any

from h2q.errors import UserError, require
from pipeline.config import CorpusConfig, TrackingConfig
from pipeline.mix import shown_mix
from pipeline.runs.folder import RunFolder
from pipeline.shown import printable, without_secrets
from pipeline.storage.store_address import sqlite_file
from pipeline.tracking import ui_view
from pipeline.tracking.client import open_client
from pipeline.tracking.uri import mlflow_command, tracking_uri

_ABOUT = """Byte-level language models, trained by `python jobs/train.py`.

* `validation/bpb`, `test/bpb`: bits per byte of the whole split, lower is better; comparable on one corpus only (the
  dataset of a run). Over a mix `validation/image/bpb` is that of one kind. `train/bpb`: mean over the steps since the
  last record.
* `energy/block_NN`: mean L2 norm of the residual stream behind each block; `state_energy/block_NN` that of its state,
  `half_life/block_NN` after how many bytes its channels keep half (median). `test/bpb_reset`: the state not carried.
* `growth/rank`: active Kronecker terms.
* `mfu`: share of a GPU's bfloat16 peak that the products of the model take.
* `system/…`: load of the machine that started the run.

Side by side, with the fields in which runs differ: `python jobs/compare.py --experiment NAME`.
"""
_PARAMETERS = 100
"""Parameters that MLflow takes in one request."""


class MLflowStore:
    """An open tracking store and experiment."""

    def __init__(self, config: TrackingConfig) -> None:
        """Raises: UserError if the store does not work, or the experiment was deleted."""
        self.address = tracking_uri(config)
        """With the user and password that a server may want: for clients, never shown."""
        self.uri = without_secrets(self.address)
        self.client = open_client(self.address)
        self.experiment_id = self._experiment(config.experiment)

    def begin_run(self, name: str, tags: dict[str, str], parameters: dict[str, Any], *, began: float) -> str:
        """A new run, with its options as parameters; its id. `began`: seconds since the epoch."""
        from mlflow.entities import Param

        tags = {key: printable(value) for key, value in tags.items()}  # a database takes no other names of files
        run = self.client.create_run(self.experiment_id, int(began * 1000), tags, printable(name))
        listed = [Param(key, printable(str(value))) for key, value in parameters.items()]
        for start in range(0, len(listed), _PARAMETERS):
            self.client.log_batch(run.info.run_id, params=listed[start : start + _PARAMETERS])
        return run.info.run_id

    def log_corpus(self, run_id: str, config: CorpusConfig, name: str, sha256: str) -> None:
        """Note the corpus as the data set of a run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = {"source": config.source, "path": config.path, "hub": config.hub}
        given = {key: without_secrets(value) for key, value in source.items() if value is not None}
        given |= {"mix": shown_mix(config.mix)} if config.mix else {}
        dataset = Dataset(name=name, digest=sha256[:16], source_type="h2q corpus", source=json.dumps(given))
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def check_run(self, run_id: str, noted_in: str) -> None:
        """Refuse to go on with a run that was deleted, which MLflow would tell at the first record.

        Raises: UserError with the command that restores it, and how to begin another (`noted_in`: the file that has
        the id).
        """
        from mlflow.exceptions import MlflowException

        another = f"remove {noted_in} to track it as a new run"
        try:
            stage = self.client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            raise UserError(f"{self.uri} has no run {run_id} any more: {another}") from error
        restore = mlflow_command(self.uri, f"runs restore --run-id {run_id}")
        require(stage == "active", f"MLflow's run {run_id} was deleted: restore it with {restore}, or {another}")

    def ended_run(self, folder: RunFolder) -> str | None:
        """The id of the run that tracks this folder here, if nothing of it is missing; looking changes nothing."""
        earlier = folder.mlflow_run()
        if earlier is None or earlier["tracking_uri"] != self.uri:
            return None
        from mlflow.exceptions import MlflowException

        try:
            info = self.client.get_run(earlier["run_id"]).info
        except MlflowException:
            return None
        return earlier["run_id"] if (info.status, info.lifecycle_stage) == ("FINISHED", "active") else None

    def _experiment(self, name: str) -> str:
        """The id of the experiment, made if need be, with its view up to date."""
        from mlflow.exceptions import MlflowException

        known = self.client.get_experiment_by_name(name) or self._made(name)
        restore = mlflow_command(self.uri, f"experiments restore --experiment-id {known.experiment_id}")
        require(
            known.lifecycle_stage == "active",
            f"tracking.experiment {name} was deleted: restore it with {restore}, or name another with "
            "--tracking.experiment",
        )
        if known.tags.get(ui_view.TAG) != ui_view.view_state():
            with suppress(MlflowException):  # another process sets the same one; without it, a view is less sorted
                self.client.set_experiment_tag(known.experiment_id, ui_view.TAG, ui_view.view_state())
        return known.experiment_id

    def _made(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        # Artifacts lie beside the database; a server decides for itself.
        database = sqlite_file(self.uri)
        location = (database.parent / "mlartifacts" / name).as_uri() if database else None
        # Or the UI would take it for one of generative AI, and open without a run in sight.
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": _ABOUT}
        try:
            made = self.client.create_experiment(name, artifact_location=location, tags=tags)
        except MlflowException:
            if known := self.client.get_experiment_by_name(name):
                return known  # another process was faster
            raise
        return self.client.get_experiment(made)


def connect(config: TrackingConfig) -> MLflowStore | None:
    """Open the store, None where tracking is off. Raises: UserError as MLflowStore does."""
    return MLflowStore(config) if config.enabled else None
