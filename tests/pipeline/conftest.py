"""A corpus and a model small enough to train in a test, a store of objects, a tracking server."""

import io
import os
import pydoc_data.topics
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, StringIO
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch
from urllib.parse import parse_qs, quote, unquote, urlsplit

import psutil
import pytest
from rich.console import Console

from h2q.config import GrowthConfig, ModelConfig
from pipeline.config import CorpusConfig, RunConfig, TrackingConfig, TrainingConfig
from pipeline.runs.folder import RunFolder
from pipeline.training.summary import Summary


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of real English, as WikiText names them: 24, 0.4 and 0.4 kB."""
    folder = tmp_path_factory.mktemp("text")
    text = "".join(pydoc_data.topics.topics.values()).encode()
    for name, start, stop in (("train", 0, 24_000), ("valid", 24_000, 24_400), ("test", 24_400, 24_800)):
        (folder / f"wiki.{name}.raw").write_bytes(text[start:stop])
    return folder


@pytest.fixture(scope="session")
def tiny(
    text_folder: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], str]
) -> Callable[..., RunConfig]:
    """Makes the config of a run of a second in this process; keywords replace fields: `training={"steps": 4}`.

    It is not tracked, which takes MLflow longer than the run; `tracking={"enabled": True}` tracks it.
    """
    prepared = tmp_path_factory.mktemp("prepared")

    def make(storage: Path, *, growing: bool = False, **changes: Any) -> RunConfig:
        config = RunConfig(
            name="run",
            storage=str(storage / "runs"),
            local=True,
            model=ModelConfig(
                dim=32, depth=2, heads=2, factor=4, fixed_rank=1 if growing else 2, max_rank=4, seq_len=16, dropout=0.1
            ),
            corpus=CorpusConfig(path=str(text_folder), prepared=str(prepared)),
            training=TrainingConfig(
                steps=12, lanes=4, warmup=2, learning_rate=1e-2, log_every=2, evaluate_every=6, save_every=4, keep=9
            ),
            growth=GrowthConfig(enabled=growing, warmup=3, interval=3, window=1, lookback=2, threshold=0.01),
            tracking=TrackingConfig(uri=f"sqlite:///{storage / 'mlflow.db'}", enabled=False),
        )
        for name, change in changes.items():
            part = getattr(config, name)
            config = replace(config, **{name: replace(part, **change) if isinstance(change, dict) else change})
        if config.tracking.enabled:
            empty_store(storage)
        return config

    return make


@pytest.fixture(scope="session")
def train() -> Callable[..., tuple[Summary, RunFolder, str]]:
    """Trains a run; gives its summary, its folder, and what was said meanwhile. Its pictures, which take longer than
    the run, are drawn with `pictures=True`; its samples are short."""

    def run(config: RunConfig, *, pictures: bool = False) -> tuple[Summary, RunFolder, str]:
        from pipeline.training.driver import train as train_run

        said = StringIO()
        console = Console(file=said, width=200)
        with (
            nullcontext() if pictures else patch("pipeline.training.driver.draw"),
            patch("pipeline.threads._LOOK_SECONDS", 0.01),
            patch("pipeline.training.samples.SAMPLE_BYTES", 20),
        ):
            summary, folder, _ = train_run(config, preset="tiny", command="python jobs/train.py tiny", console=console)
        summary.show(console, folder.path)
        return summary, folder, said.getvalue()

    return run


class StandInStore:
    """The part of S3 that Arrow uses: buckets of objects, listings, ranges, uploads in parts."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.read: list[str] = []
        self.address = ""
        self.refused = ""
        """Names that hold this text cannot be written: 403."""
        self.user = ""
        """Who alone may read, if anybody: 403 to others."""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.url = urlsplit("")
                self.query: dict[str, list[str]] = {}

            def key(self) -> str:
                self.url = urlsplit(self.path)
                self.query = parse_qs(self.url.query, keep_blank_values=True)
                return unquote(self.url.path).lstrip("/")

            def send(self, code: int, data: bytes = b"", size: int | None = None, **headers: str) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(data) if size is None else size))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data)

            def body(self) -> bytes:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    data = self.chunks(self.rfile)
                else:
                    data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return self.chunks(io.BytesIO(data)) if "x-amz-decoded-content-length" in self.headers else data

            def chunks(self, file: IO[bytes] | BufferedIOBase) -> bytes:
                data = b""
                while size := int(file.readline().partition(b";")[0], 16):
                    data += file.read(size)
                    file.readline()
                while file.readline().strip():
                    pass
                return data

            def parse_request(self) -> bool:
                known = super().parse_request()
                if known and store.user and f"Credential={store.user}/" not in self.headers.get("Authorization", ""):
                    self.close_connection = True
                    self.send(403, b"<Error><Code>AccessDenied</Code></Error>")
                    return False
                return known

            def do_HEAD(self) -> None:
                key = self.key()
                if "/" not in key.strip("/"):
                    self.send(200)
                elif key in store.objects:
                    self.send(
                        200, size=len(store.objects[key]), Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT", ETag='"e"'
                    )
                else:
                    self.send(404)

            def do_GET(self) -> None:
                key = self.key()
                if "list-type" in self.query:
                    self.list(key.strip("/"))
                elif key not in store.objects:
                    self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")
                else:
                    data = store.objects[key]
                    store.read.append(key)
                    asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                    part = data[int(asked[1]) : int(asked[2] or len(data)) + 1] if asked else data
                    self.send(206 if asked else 200, part, ETag='"e"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

            def list(self, bucket: str) -> None:
                prefix = self.query.get("prefix", [""])[0]
                flat = not self.query.get("delimiter", [""])[0]
                found, folders = [], set()
                for name in sorted(store.objects):
                    key = name.removeprefix(bucket + "/")
                    if name.startswith(bucket + "/") and key.startswith(prefix):
                        rest = key[len(prefix) :]
                        if flat or "/" not in rest:
                            found.append(
                                f"<Contents><Key>{key}</Key><Size>{len(store.objects[name])}</Size>"
                                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                            )
                        else:
                            folders.add(prefix + rest.partition("/")[0] + "/")
                common = "".join(
                    f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in sorted(folders)
                )
                self.send(
                    200,
                    (
                        f"<ListBucketResult><Name>{bucket}</Name><Prefix>{prefix}</Prefix>"
                        f"<KeyCount>{len(found) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
                        f"{''.join(found)}{common}</ListBucketResult>"
                    ).encode(),
                )

            def do_PUT(self) -> None:
                key, data = self.key(), self.body()
                if store.refused and store.refused in key:
                    return self.send(403, b"<Error><Code>AccessDenied</Code></Error>")
                if "partNumber" in self.query:
                    store.parts[self.query["uploadId"][0]][int(self.query["partNumber"][0])] = data
                else:
                    store.objects[key] = data
                self.send(200, ETag='"e"')

            def do_POST(self) -> None:
                key, body = self.key(), self.body()
                if store.refused and store.refused in key:
                    return self.send(403, b"<Error><Code>AccessDenied</Code></Error>")
                if "delete" in self.query:
                    for name in re.findall(rb"<Key>([^<]*)</Key>", body):
                        store.objects.pop(f"{key.strip('/')}/{name.decode()}", None)
                    self.send(200, b"<DeleteResult></DeleteResult>")
                elif "uploads" in self.query:
                    upload = str(len(store.parts))
                    store.parts[upload] = {}
                    self.send(
                        200,
                        f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
                        "</InitiateMultipartUploadResult>".encode(),
                    )
                else:
                    parts = store.parts[self.query["uploadId"][0]]
                    store.objects[key] = b"".join(parts[number] for number in sorted(parts))
                    self.send(200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")

            def do_DELETE(self) -> None:
                store.objects.pop(self.key(), None)
                self.send(204)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def uri(self, path: str) -> str:
        return f"s3://nobody:secret@{path}?endpoint_override={quote(self.address)}&scheme=http&region=nowhere"


@pytest.fixture(scope="session")
def store() -> Iterator[StandInStore]:
    made = StandInStore()
    server = ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
    made.address = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def tracking_server(tmp_path: Path) -> tuple[str, Callable[[], AbstractContextManager[None]]]:
    """The address of a real tracking server on 127.0.0.1, and what runs it, as often as asked, on one store."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    stored = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]

    @contextmanager
    def running() -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *stored, "--port", str(port), "--workers", "1"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while True:
                with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5):
                    break
                assert process.poll() is None
                time.sleep(0.1)
            yield
        finally:
            for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                child.kill()
            process.wait()

    return uri, running
