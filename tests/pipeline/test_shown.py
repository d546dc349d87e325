"""What may be shown: nothing that upsets a terminal, no secret of an address."""

import io
import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from pipeline.comparison.compare import compare
from pipeline.comparison.find import newest_runs
from pipeline.comparison.listed import list_table, listed
from pipeline.comparison.table import table
from pipeline.config import PRESETS, CorpusConfig
from pipeline.runs.folder import RunFolder
from pipeline.shown import cell, presentable, printable, without_secrets

AWKWARD = [
    "p@ss",
    "se/cret",
    "a?b",
    "x#y",
    "p:q",
    "a&b=c",
    "12/34",
    "'quoted'",
    '"',
    "é@ü",
    "%40",
    "@",
    "//",
    "a@b/c@d",
]
KEYS = [
    "sig",
    "token",
    "pwd",
    "password",
    "client_secret",
    "X-Amz-Signature",
    "AWSAccessKeyId",
    "api_key",
    "access_token",
]


@pytest.mark.parametrize("password", AWKWARD)
@pytest.mark.parametrize(
    "address", ["http://bob:{}@host:5000/a", "s3://KEY:{}@bucket/x?region=r", "postgresql://u:{}@h/db"]
)
def test_no_part_of_a_password_passes(password: str, address: str) -> None:
    said = without_secrets(f"cannot open {address.format(password)}: refused; try --storage runs")
    assert said.startswith("cannot open ") and said.endswith("refused; try --storage runs")
    rest = address.partition("@")[2]
    assert said == f"cannot open {address.partition('://')[0]}://{rest}: refused; try --storage runs"


@given(st.text(string.ascii_letters + string.digits + string.punctuation, min_size=6).map(lambda text: f"q7{text}7q"))
def test_no_password_of_printable_characters_passes(password: str) -> None:
    assert without_secrets(f"http://bob:{password}@host/x") == "http://host/x"


@pytest.mark.parametrize("key", KEYS)
def test_no_secret_of_a_query_or_of_a_message_passes(key: str) -> None:
    secret = "s3cr3t+/=="
    for said in (f"s3://b/x?a=1&{key}={quote(secret, safe='')}&b=2", f"http://h/#{key}={secret}"):
        assert secret not in without_secrets(said) and quote(secret, safe="") not in without_secrets(said)
    assert "hunter2" not in without_secrets("connection failed: user=bob password=hunter2 host=h")


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/data@2024/part",
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=h2q",
        "--corpus.hub name:config@revision",
        "sqlite:////tmp/a b/mlflow.db",
        "--model.dim 64 --search.space model.fixed_rank=1,2",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_controls_do_not_reach_a_terminal() -> None:
    assert printable("a\x1b[31mb\tc\nd\u202e\x7f\x9b") == "a\ufffd[31mb\tc\nd\ufffd\ufffd\ufffd"
    assert presentable("\x1b]0;x\x07 http://a:b@c") == "\ufffd]0;x\ufffd http://c"


STRANGE = "[red]a[b]\x1b[2J"


def test_a_cell_of_a_table_shows_what_it_holds() -> None:
    said = io.StringIO()
    shown = Table(title=cell(STRANGE))
    shown.add_column("x")
    shown.add_row(cell(STRANGE))
    Console(file=said, width=80, force_terminal=True, color_system="truecolor").print(shown)
    assert said.getvalue().count("[red]a[b]\ufffd[2J") == 2 and "\x1b[2J" not in said.getvalue()


def test_names_from_outside_are_shown_as_they_are_by_the_jobs_tables(
    tmp_path: Path, past_run: Callable[..., RunFolder]
) -> None:
    """A run, a corpus and an option whose names would colour a terminal, or clear it."""
    for name, bpb in ((STRANGE, 2.0), ("plain", 3.0)):
        folder = past_run(tmp_path / name, bpb)
        config = replace(PRESETS["laptop"], corpus=CorpusConfig(path=f"{STRANGE}{name[:3]}"))
        folder.note_config("laptop", STRANGE, config)
        folder.write_summary((folder.summary() or {}) | {"corpus": STRANGE})
    said = io.StringIO()
    console = Console(file=said, width=250)
    console.print(list_table(listed(str(tmp_path))))
    console.print(table(compare(newest_runs(2, str(tmp_path))), 250)[0])
    assert said.getvalue().count("[red]a[b]\ufffd[2J") == 3 + 3, said.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", said.getvalue())
