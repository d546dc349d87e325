"""WikiText-2 through the real `load_dataset`, against a stand-in hub on this machine; and without a hub."""

import hashlib
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from h2q.errors import UserError
from pipeline.config import CorpusConfig, RunConfig
from pipeline.prepare import hub
from pipeline.prepare.prepare import Event, prepare

NAME, CONFIG, REVISION = "Salesforce/wikitext", "wikitext-2-raw-v1", hub.WIKITEXT.partition("@")[2]
ARTICLE = " \n = Title {} = \n \n {} words , Zürich \u2028 and @-@ more . \n \n = = Section = = \n \n More of {} . \n"
ORIGINAL = {
    split: "".join(ARTICLE.format(i, split, i) for i in range(count)) + " \n"
    for split, count in {"train": 700, "validation": 40, "test": 41}.items()
}


def rows(text: str) -> list[str]:
    """The lines as the hub has them: blank ones without their blank."""
    return [line if line.strip() else "" for line in text.split("\n")[:-1] for line in [line + "\n"]]


class StandInHub:
    """Serves one data set the way the hub does, on 127.0.0.1."""

    def __init__(self, texts: dict[str, str]) -> None:
        paths = "".join(f"  - split: {split}\n    path: {CONFIG}/{split}-*\n" for split in texts)
        card = f"---\nlicense: cc-by-sa-3.0\nconfigs:\n- config_name: {CONFIG}\n  data_files:\n{paths}---\n"
        self.files = {"README.md": card.encode()}
        for split, text in texts.items():
            sink = io.BytesIO()
            pq.write_table(pa.table({"text": rows(text)}), sink)
            self.files[f"{CONFIG}/{split}-00000-of-00001.parquet"] = sink.getvalue()
        self.asked: list[str] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                path = self.path.partition("?")[0]
                stand_in.asked.append(f"{self.command} {path}")
                data = stand_in.content(path)
                self.send_response(404 if data is None else 200)
                if data is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                else:
                    self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", REVISION)
                self.send_header("Content-Type", "application/json" if path.startswith("/api") else "application/x")
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                if body and data:
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def content(self, path: str) -> bytes | None:
        if path == "/":
            return b"hub"
        for prefix in (f"/datasets/{NAME}/resolve/{REVISION}/", f"/datasets/{NAME}/resolve/main/"):
            if path.startswith(prefix):
                return self.files.get(path.removeprefix(prefix))
        if path.startswith(f"/api/datasets/{NAME}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            return json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings, "tags": []}).encode()
        if path.startswith(tree := f"/api/datasets/{NAME}/tree/{REVISION}"):
            return json.dumps(self.listing(path.removeprefix(tree).strip("/"))).encode()
        return None

    def listing(self, folder: str) -> list[dict[str, object]]:
        inside = [name for name in self.files if name.rpartition("/")[0] == folder]
        found: list[dict[str, object]] = [
            {
                "type": "file",
                "path": name,
                "size": len(self.files[name]),
                "oid": hashlib.sha1(name.encode()).hexdigest(),
            }
            for name in inside
        ]
        if not folder:
            found.append({"type": "directory", "path": CONFIG, "size": 0, "oid": "0" * 40})
        return found


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    made = StandInHub(ORIGINAL)
    server = ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with closing(server.socket):
        yield made
        server.shutdown()


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.ray
def test_wikitext_from_the_hub_is_the_original_file_again(stand_in: StandInHub, tmp_path: Path, monkeypatch) -> None:
    config = CorpusConfig(prepared=str(tmp_path / "data"))
    corpus = prepare(config, local=True)
    assert "WikiText-2 raw (Salesforce/wikitext@b08601e04326)" in corpus.name
    for name, split in corpus.splits.items():
        assert split.read(0, len(split)).tobytes().decode() == ORIGINAL[name]
        text = ORIGINAL[name]
        assert split.document_starts().tolist() == [
            len(text[:at].encode()) for at in range(len(text)) if text.startswith(" \n = Title", at)
        ]
    assert any(asked.startswith(f"GET /datasets/{NAME}/resolve/{REVISION}/") for asked in stand_in.asked)
    assert corpus.notes == ()
    # Prepared once, it needs no hub any more: nor does another preparation of what was downloaded.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    asked = len(stand_in.asked)
    assert prepare(config, local=True).sha256 == corpus.sha256
    again = prepare(CorpusConfig(prepared=str(tmp_path / "other"), shard_bytes=5000), local=True)
    assert again.sha256 == corpus.sha256 and len(again.train.shards) > 1
    assert len(stand_in.asked) == asked


def test_without_a_hub_one_line_says_so_and_the_manual_is_used(
    no_hub: None, tmp_path: Path, tiny: Callable[..., RunConfig], train: Callable
) -> None:
    told: list[Event] = []
    corpus = prepare(CorpusConfig(prepared=str(tmp_path / "data")), local=True, on_event=told.append)
    notes = [event.text for event in told if event.kind == "note" and "did not answer" in event.text]
    assert len(notes) == 1 and "\n" not in notes[0] and "reference manual" in notes[0]
    assert corpus.name.endswith("(pydoc_data.topics)") and corpus.notes[0] == notes[0]
    # Who knows which corpus it is finds it without asking; anything else is asked for as ever.
    for sha256, silent in ((corpus.sha256, True), ("0" * 64, False)):
        told.clear()
        again = prepare(CorpusConfig(prepared=str(tmp_path / "data")), local=True, on_event=told.append, sha256=sha256)
        assert again.sha256 == corpus.sha256
        assert silent == all("did not answer" not in event.text for event in told)
    corpus_of_a_run = {"path": None, "prepared": str(tmp_path / "data")}
    _, _, said = train(tiny(tmp_path, corpus=corpus_of_a_run, training={"steps": 1, "evaluate_bytes": 64}))
    assert said.count("did not answer") == 1, "at the start, and not in the summary again"


def test_a_hub_that_was_asked_for_and_is_silent_is_an_error(no_hub: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not answer"):
        prepare(CorpusConfig(source="wikitext", prepared=str(tmp_path / "data")), local=True)
    said = r"^image in corpus.mix: .*: give --corpus.mix image=PATH or --corpus.mix image=embedded$"
    with pytest.raises(UserError, match=said):
        prepare(CorpusConfig(mix="image=hub:some/pictures@1", prepared=str(tmp_path / "data")), local=True)
    assert not (tmp_path / "data").exists()


@pytest.mark.ray  # waits for a server
def test_a_hub_that_accepts_but_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        corpus = prepare(CorpusConfig(prepared=str(tmp_path / "data")), local=True)
    assert "no answer" in corpus.notes[0] or "timed out" in corpus.notes[0]


@pytest.mark.ray
def test_any_data_set_by_name_with_rows_as_documents(stand_in: StandInHub, tmp_path: Path) -> None:
    name = f"{NAME}:{CONFIG}@{REVISION}"
    with pytest.raises(UserError, match="no text in a column 'story'; its columns are text"):
        hub_name = name.replace("wikitext:", "other:")
        stand_in.content = lambda path: StandInHub.content(stand_in, path.replace("/other/", "/wikitext/"))
        prepare(CorpusConfig(hub=hub_name, column="story", prepared=str(tmp_path / "data")), local=True)
    corpus = prepare(CorpusConfig(hub=hub_name, prepared=str(tmp_path / "data")), local=True)
    assert corpus.train.read(0, len(corpus.train)).tobytes().decode() == "".join(rows(ORIGINAL["train"]))
    assert corpus.train.documents == len(rows(ORIGINAL["train"]))
