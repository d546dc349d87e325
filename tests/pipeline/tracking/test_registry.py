"""The model registry: a run's best model, loaded and served by MLflow itself."""

import base64
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from h2q.errors import UserError
from h2q.generate import Memory, generate
from h2q.model import ByteModel
from pipeline.config import RunConfig, TrackingConfig
from pipeline.runs.folder import RunFolder
from pipeline.runs.load import load_checkpoint, load_model
from pipeline.tracking.registry import register, serve_command
from pipeline.tracking.store import MLflowStore

Registered = tuple[RunFolder, MLflowStore, str, str]
PROMPT = "for every "


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., RunConfig], train: Callable) -> Registered:
    """A run that registered itself at its end: its folder, store, run id and what was said."""
    config = tiny(tmp_path_factory.mktemp("registered"), tracking={"enabled": True, "register": "tiny model"})
    summary, folder, said = train(config)
    assert summary.mlflow_run_id
    return folder, MLflowStore(config.tracking), summary.mlflow_run_id, said


def test_the_version_holds_the_best_checkpoint_and_no_pickle(registered: Registered) -> None:
    folder, store, run_id, said = registered
    version = store.client.get_model_version("tiny model", "1")
    checkpoint, path = load_checkpoint(folder)
    best = checkpoint.state["best"]
    assert version.run_id == run_id and version.status == "READY"
    assert version.tags["step"] == str(best["step"]) and float(version.tags["validation_bpb"]) == round(best["bpb"], 6)
    assert "models:/tiny model/1" in said and "models serve" in said
    model = store.client.get_logged_model(str(version.source).removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics or []}["validation/bpb"] == best["bpb"]
    files = [file for file in Path(model.artifact_location.removeprefix("file://")).rglob("*") if file.is_file()]
    [weights] = [file for file in files if file.suffix == ".safetensors"]
    assert weights.read_bytes() == (path / "model.safetensors").read_bytes()
    assert not [
        file for file in files if file.suffix in (".pkl", ".pt", ".bin") or b"\x80\x04\x95" in file.read_bytes()
    ]


@pytest.mark.parametrize("folder", ["an environment", "it's", "plain"])
def test_the_command_that_serves_is_one_of_a_shell_wherever_python_is(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / folder
    programs.mkdir()
    (programs / "mlflow").touch()
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    uri = "sqlite:////a b/mlflow.db"
    path, store, *words = shlex.split(serve_command(uri, "a name", 1))
    assert (path, store) == (f"PATH={programs}:$PATH", f"MLFLOW_TRACKING_URI={uri}")
    assert words[:5] == [str(programs / "mlflow"), "models", "serve", "-m", "models:/a name/1"]


def test_the_same_checkpoint_is_registered_once(registered: Registered) -> None:
    folder, store, run_id, _ = registered
    assert register(folder, "tiny model", store, run_id) == 1
    assert register(folder, "another name", store, run_id) == 1
    assert len(store.client.search_model_versions("name='tiny model'")) == 1


def test_registering_leaves_mlflow_s_own_store_alone(registered: Registered) -> None:
    import mlflow

    folder, store, run_id, _ = registered
    before = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    register(folder, "yet another name", store, run_id)
    assert (mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")) == before


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path, registered: Registered) -> None:
    _, store, run_id, _ = registered
    with pytest.raises(UserError, match="has no checkpoint yet"):
        register(RunFolder(tmp_path), "nothing", store, run_id)
    assert not store.client.search_model_versions("name='nothing'")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"register": "a/b"}, "must be a name without"),
        ({"register": " "}, "must be a name without"),
        ({"register": "a", "enabled": False}, "needs tracking"),
    ],
)
def test_a_name_that_mlflow_refuses_is_refused_before_training(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        TrackingConfig(**options)


@pytest.mark.ray
def test_it_loads_without_this_project(registered: Registered, tmp_path: Path) -> None:
    """In an interpreter where neither `pipeline` nor this copy of `h2q` can be imported."""
    folder, store, _, _ = registered
    code = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pipeline":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import mlflow
model = mlflow.pyfunc.load_model("models:/tiny model/1")
print(model.predict(dict(prompt=[{PROMPT!r}]), dict(length=8))["base64"][0])
print(sys.modules["h2q.generate"].__file__)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": store.uri, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "noise on a user's screen is a defect"
    written, place = done.stdout.splitlines()
    model, _ = load_model(folder)
    assert base64.b64decode(written) == generate(model, PROMPT.encode(), 8, temperature=0.8, seed=0)
    assert Path(place).is_relative_to(Path(store.uri.removeprefix("sqlite:///")).parent / "mlartifacts")


@contextmanager
def serving(uri: str, name: str, folder: Path) -> Iterator[str]:
    """`mlflow models serve`, as a run's end says it, on a port of its own: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = serve_command(uri, name, 1).replace("5001", str(port))
    log = folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"], stdout=output, stderr=output, start_new_session=True, cwd=log.parent
        )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def server(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(registered[1].uri, "tiny model", tmp_path_factory.mktemp("server")) as address:
        yield address


def ask(server: str, rows: list[dict[str, str]], **params: Any) -> list[dict[str, Any]]:
    body = json.dumps({"dataframe_records": rows, "params": params}).encode()
    request = urllib.request.Request(f"{server}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


def test_it_is_served_over_http(registered: Registered, server: str) -> None:
    model, _ = load_model(registered[0])
    rows = [{"prompt": PROMPT}, {"prompt": "é"}]
    choices: list[dict[str, Any]] = [{}, {"temperature": 0.0}, {"top_k": 3, "seed": 7}, {"top_p": 0.5}, {"min_p": 0.2}]
    for options in choices:
        answers = ask(server, rows, length=12, **options)
        for row, answer in zip(rows, answers, strict=True):
            wanted = generate(model, row["prompt"].encode(), 12, **{"temperature": 0.8, **options})
            assert base64.b64decode(answer["base64"]) == wanted, options
            assert answer["text"] == wanted.decode("utf-8", errors="replace")

    anything = b"\x00\xff\x80 not text"
    [answer] = ask(server, [{"prompt_bytes": base64.b64encode(anything).decode()}], length=0)
    with torch.no_grad():
        wanted = model(torch.tensor([list(anything[-16:])]))[0, -1].double().softmax(-1)  # type: ignore[index]
    assert np.allclose(answer["probabilities"], wanted, rtol=1e-6) and abs(sum(answer["probabilities"]) - 1) < 1e-9


@pytest.mark.parametrize(
    ("row", "params", "rule"),
    [
        ({"prompt": ""}, {}, "must hold at least one byte"),
        ({"prompt": "a", "prompt_bytes": "YQ=="}, {}, "either prompt (text) or prompt_bytes"),
        ({"prompt": "a"}, {"length": -1}, "length must be at least 0"),
        ({"prompt": "a"}, {"temperature": -1.0}, "temperature must be finite and at least 0"),
        ({"prompt": "a"}, {"length": 4097}, "at most 4096 bytes"),
        ({"prompt": "a"}, {"length": 10**18}, "at most 4096 bytes"),
        ({"prompt": "a"}, {"length": 1, "seed": -1}, "seed must be"),
        ({"prompt": "a"}, {"length": 1, "top_k": -3}, "top-k must be"),
        ({"prompt": "a" * (1 + (1 << 20))}, {}, "at most 1048576 bytes together"),
        ({"prompt_bytes": "not base64!"}, {}, ""),
        ({"prompt": 7}, {}, ""),
        ({"promt": "a"}, {}, "a row must have either prompt (text) or prompt_bytes"),
        ({"prompt": "a"}, {"length": "many"}, ""),
        ({"prompt": ["a"] * 4097}, {"length": 0}, "at most 4096 bytes and rows"),
        ({"prompt": ["a", "b"]}, {"length": 2049}, "at most 4096 bytes and rows"),
        ({"prompt": None}, {}, ""),
        ({"prompt": {"a": 1}}, {}, ""),
        ({"prompt": "\ud800"}, {}, ""),
        ({"prompt": ["a", ["b", 3]]}, {}, ""),
        ({"prompt": "a"}, {"length": 1, "temperature": float("nan")}, ""),
        ({"prompt": "a"}, {"length": 1, "temperature": 1e-320, "top_p": float("inf")}, ""),
    ],
)
def test_a_wrong_request_is_answered_with_the_rule(server: str, row: dict, params: dict, rule: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, [row], **params)
    assert refused.value.code == 400
    assert rule in json.load(refused.value)["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"dataframe_records": 7}',
        b'{"dataframe_records": []}',
        b'{"dataframe_split": {"columns": ["prompt", "prompt"], "data": [["a", "b"]]}}',
        b'{"dataframe_split": {"columns": ["prompt"], "data": [["a", "b"]]}}',
        b'{"inputs": [[1, 2], [3]]}',
        b'{"instances": [{"prompt": "a"}, {"prompt_bytes": "YQ=="}]}',
        b'{"inputs": {"prompt": "a"}, "params": 7}',
        b'{"inputs": {"prompt": "a"}, "params": {"length": {"a": 1}}}',
    ],
)
def test_a_malformed_request_is_one_too(server: str, body: bytes) -> None:
    for kind in ("application/json", "text/csv"):
        request = urllib.request.Request(f"{server}/invocations", body, {"Content-Type": kind})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert 400 <= refused.value.code < 500, (kind, refused.value.read())


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., RunConfig], train: Callable) -> Any:
    """A model with a state, as MLflow loads it."""
    import mlflow

    config = tiny(
        tmp_path_factory.mktemp("stateful"),
        tracking={"enabled": True, "register": "remembering"},
        training={"steps": 2},
        model={"mixer": "both"},
    )
    _, folder, _ = train(config)
    none: Any = None
    mlflow.set_tracking_uri(str(config.tracking.uri))
    try:
        return mlflow.pyfunc.load_model("models:/remembering/1"), load_model(folder)[0], str(config.tracking.uri)
    finally:
        mlflow.set_tracking_uri(none)


def test_a_state_goes_out_and_comes_back(stateful: Any) -> None:
    served, model, _ = stateful
    whole = generate(model, PROMPT.encode(), 30, temperature=0.8, seed=3)
    written, row = b"", {"prompt": PROMPT}
    for params in ({"seed": 3}, {}, {}):
        answer = served.predict([row], {"length": 10, "keep_state": True, **params}).iloc[0]
        written, row = written + base64.b64decode(answer["base64"]), {"state": answer["state"]}
    assert written == whole
    other = served.predict([row], {"length": 10, "seed": 4}).iloc[0]
    assert "state" not in other and base64.b64decode(other["base64"]) != whole[20:]
    [after] = served.predict([row], {"length": 0})["probabilities"]
    with torch.no_grad():
        text = PROMPT.encode() + whole
        wanted = model(torch.tensor([list(text)]), state=model.new_state(1))[0][0, -1].double().softmax(-1)
    assert np.allclose(after, wanted, rtol=1e-4)
    begun = served.predict([{"prompt": PROMPT}], {"length": 0, "keep_state": True, "seed": 3}).iloc[0]
    behind = served.predict([{"state": begun["state"]}], {"length": 30}).iloc[0]
    assert base64.b64decode(behind["base64"]) == whole


@pytest.mark.slow  # a second server: what MLflow makes of a state on its way through JSON
def test_a_state_goes_out_and_comes_back_over_http(stateful: Any, tmp_path: Path) -> None:
    _, model, uri = stateful
    whole = generate(model, PROMPT.encode(), 30, temperature=0.8, seed=3)
    written, row = b"", {"prompt": PROMPT}
    with serving(uri, "remembering", tmp_path) as address:
        for params in ({"seed": 3}, {}, {}):
            [answer] = ask(address, [row], length=10, keep_state=True, **params)
            written, row = written + base64.b64decode(answer["base64"]), {"state": answer["state"]}
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(address, [{"state": "YWJj"}], length=1)
    assert written == whole
    assert refused.value.code == 400 and b"state must be what an answer gave" in refused.value.read()


def test_a_foreign_state_is_answered_with_the_rule(stateful: Any, registered: Registered) -> None:
    from mlflow.exceptions import MlflowException

    served, model, _ = stateful
    other = load_model(registered[0])[0]  # It attends: no state at all.
    twin = ByteModel(model.config)
    parts = Memory(twin, 0)
    parts.take(b"a")
    foreign = base64.b64encode(save(parts.saved())).decode()
    cut = base64.b64encode(save({"state": parts.saved()["state"]})).decode()
    for state, rule in (
        (foreign, "the state is of another model, with sha256"),
        (cut, "the state is of another model: its keys_and_values is missing"),
        ("not base64!", "state must be what an answer gave"),
        ("YWJj", "state must be what an answer gave"),
        ("a" * (1 + (32 << 20)), "the states must have at most"),
    ):
        with pytest.raises(MlflowException) as refused:
            served.predict([{"prompt": "a", "state": state}], {"length": 1})
        assert rule in refused.value.message and "\n" not in refused.value.message
        assert refused.value.get_http_status_code() == 400
    with pytest.raises(UserError, match=r"model\.mixer is attention"):
        Memory(other, 0)
