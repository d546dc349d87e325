"""MLflow's model registry: a run's best checkpoint becomes a version that MLflow loads and serves, without pickle.

    mlflow models serve -m models:/NAME/VERSION --env-manager local
    mlflow.pyfunc.load_model("models:/NAME/VERSION").predict({"prompt": "The "}, params={"length": 100})

The version holds the code (pipeline/tracking/pyfunc_model.py and the package h2q), the weights and the model's config:
it loads where torch, safetensors and mlflow are installed, also without this project.
"""

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2q.config import ModelConfig
from h2q.errors import UserError, first_line
from pipeline.runs.checkpoint import MODEL, Checkpoint, config_of, weights_sha256
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint
from pipeline.shown import printable
from pipeline.storage.path import on_disk
from pipeline.tracking.store import MLflowStore
from pipeline.tracking.uri import mlflow_program

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

NEEDS = ("mlflow", "torch", "safetensors", "pandas")


def register(folder: RunFolder, name: str, store: MLflowStore, run_id: str) -> int:
    """Log the run's best checkpoint as a model of its MLflow run and register it as `name`; gives the version.

    A checkpoint that is registered already under that name keeps its version.
    Raises: UserError if the run has no valid checkpoint, or the store does not take it.
    """
    from mlflow.exceptions import MlflowException

    checkpoint, path = load_checkpoint(folder)
    sha256 = weights_sha256(path)
    try:
        for known in store.client.search_model_versions(f"name='{name}'"):
            if known.run_id == run_id and known.tags.get("weights_sha256") == sha256:
                return int(known.version)
        model_id = _log(folder, checkpoint, path, store, run_id)
        return _version(name, model_id, folder, checkpoint, sha256, store, run_id)
    except MlflowException as error:
        raise UserError(f"MLflow did not register {folder.name} as {name!r}: {first_line(error)}") from error


def serve_command(uri: str, name: str, number: int) -> str:
    """The command that serves a version on port 5001 of this machine."""
    program = mlflow_program()
    # MLflow starts uvicorn by its bare name, which a Python that is not activated does not have on the PATH.
    beside = Path(shlex.split(program)[0]).parent
    path = "" if program == "mlflow" else f"PATH={shlex.quote(str(beside))}:$PATH "
    model = shlex.quote(f"models:/{name}/{number}")
    serve = f"{program} models serve -m {model} --env-manager local --port 5001"
    return f"{path}MLFLOW_TRACKING_URI={shlex.quote(uri)} {serve}"


def _log(folder: RunFolder, checkpoint: Checkpoint, path: Path, store: MLflowStore, run_id: str) -> str:
    """Upload a model from code to the run; gives its id."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
    from mlflow.models import Model

    client, step = store.client, checkpoint.state["step"]
    config = config_of(checkpoint.state)
    experiment = client.get_run(run_id).info.experiment_id
    parameters = {key: str(value) for key, value in config.model.to_dict().items()}
    model = client.create_logged_model(experiment, folder.name, run_id, params=parameters)
    described = Model(
        artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
    )
    with tempfile.TemporaryDirectory() as scratch, on_disk(path / MODEL) as weights:
        client.log_model_artifacts(model.model_id, str(_save(Path(scratch), config.model, weights, described)))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
    measured = [
        Metric(metric.key, metric.value, metric.timestamp, metric.step, model_id=model.model_id, run_id=run_id)
        for key in ("validation/bpb", "test/bpb")
        for metric in client.get_metric_history(run_id, key)
        if metric.step == step
    ]
    client.log_batch(run_id, metrics=measured)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id


def _save(scratch: Path, config: ModelConfig, weights: Path, described: "Model") -> Path:
    """The folder of the model as MLflow keeps it: its code, its weights and its config."""
    import mlflow.pyfunc

    code, config_file, folder = scratch / "h2q", scratch / "config.json", scratch / "model"
    config_file.write_text(json.dumps(config.to_dict(), indent=1))
    here = Path(__file__).parent
    shutil.copytree(here.parents[1] / "h2q", code, ignore=shutil.ignore_patterns("__pycache__"))
    mlflow.pyfunc.save_model(
        folder,
        python_model=here / "pyfunc_model.py",
        code_paths=[str(code)],
        artifacts={"config": str(config_file), "weights": str(weights)},
        pip_requirements=[f"{library}=={version(library).partition('+')[0]}" for library in NEEDS],
        signature=_signature(),
        input_example=({"prompt": "The "}, {"length": 100}),
        mlflow_model=described,
    )
    return folder


def _version(
    name: str, model_id: str, folder: RunFolder, checkpoint: Checkpoint, sha256: str, store: MLflowStore, run_id: str
) -> int:
    from mlflow.exceptions import MlflowException

    try:
        store.client.get_registered_model(name)
    except MlflowException:
        store.client.create_registered_model(name, description=_how_to_use(name))
    best, state = checkpoint.state["best"], checkpoint.state
    bpb = f"{best['bpb']:.4f} bits per byte on validation" if best else "not yet evaluated"
    with _default_store(store.address):
        registered = store.client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            description=f"{printable(folder.name)}: {bpb}, step {state['step']:,}, {state['parameters']:,} parameters",
            tags={
                "run": printable(folder.name),
                "step": str(state["step"]),
                "corpus_sha256": state["corpus_sha256"],
                "weights_sha256": sha256,
                **({"validation_bpb": f"{best['bpb']:.6f}"} if best else {}),
            },
        )
    return int(registered.version)


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """Inside, `uri` is MLflow's global store: a database registry looks up a model there, whichever client asks it."""
    import mlflow

    before: Any = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # the environment's, or none again


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.string, "prompt", required=False),
                ColSpec(DataType.binary, "prompt_bytes", required=False),
                ColSpec(DataType.string, "state", required=False),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(DataType.string, "text", required=False),
                ColSpec(DataType.string, "base64", required=False),
                ColSpec(Array(DataType.double), "probabilities", required=False),
                ColSpec(DataType.string, "state", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("length", DataType.long, 200),
                ParamSpec("temperature", DataType.double, 0.8),
                ParamSpec("top_k", DataType.long, 0),
                ParamSpec("top_p", DataType.double, 1.0),
                ParamSpec("min_p", DataType.double, 0.0),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("keep_state", DataType.boolean, False),
            ]
        ),
    )


def _how_to_use(name: str) -> str:
    return f"""A byte-level language model, trained by h2q.

Serve it (VERSION: a number below), then ask for text, or with length 0 for the distribution of the next byte:

```sh
mlflow models serve -m models:/{name}/VERSION --env-manager local --port 5001
curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\
  -d '{{"dataframe_records": [{{"prompt": "The "}}], "params": {{"length": 200, "temperature": 0.8}}}}'
```

A row has `prompt` (text) or `prompt_bytes` (base64), 1 MiB in all. Parameters: length (bytes, 4096 at most over all
rows), temperature (0: the likeliest byte),
top_k (0: off), top_p (1: off), min_p (0: off), seed. The answer has `text` and, exactly, `base64`; or `probabilities`.
Of a model with a state (`model.mixer` state or both) it has with keep_state also `state`, which a row brings back, with
a prompt or without, to go on as if it had not stopped (32 MiB in all).
`mlflow models serve` starts `uvicorn` by name: activate the environment first. In Python:

```python
model = mlflow.pyfunc.load_model("models:/{name}/VERSION")
model.predict({{"prompt": "The "}}, params={{"length": 200}})
```
"""
