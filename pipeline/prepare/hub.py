"""Data sets of the Hugging Face hub, by the real `load_dataset`, in a separate process.

Separate, because the clients read HF_ENDPOINT and HF_HUB_OFFLINE when they are imported, and because the
default client waits 23 s for a hub that cannot be reached.
"""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2q.errors import UserError, require

WIKITEXT = "Salesforce/wikitext:wikitext-2-raw-v1@b08601e04326c79dfdd32d625aee71d232d685c3"
_PATIENCE = 3.0
"""Seconds in which the hub must answer at all."""


class HubUnreachable(UserError):
    """The hub did not answer, and the data set was not downloaded before. `what` is the message without its remedy."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what


@dataclass(frozen=True)
class HubName:
    """A data set of the hub: NAME[:CONFIG][@REVISION]."""

    name: str
    config: str | None
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> "HubName":
        rest, _, revision = text.partition("@")
        name, _, config = rest.partition(":")
        require(name != "" and " " not in text, f"corpus.hub must be NAME[:CONFIG][@REVISION], got {text!r}")
        return cls(name, config or None, revision or None)


def fetch(data_set: HubName) -> dict[str, list[str]]:
    """Split → paths of its Arrow files in the cache of `datasets`.

    Raises: HubUnreachable when the hub does not answer within seconds and nothing is cached; UserError for a data set
    that cannot be loaded.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    silent = "HF_HUB_OFFLINE is set" if offline else _silence(endpoint)
    remedy = "give --corpus.path PATH or --corpus.source embedded"
    if silent and not _anything_cached():
        raise HubUnreachable(_unanswered(endpoint, silent, data_set), remedy)
    settings = {"HF_HUB_ETAG_TIMEOUT": "5", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings |= {"HF_HUB_OFFLINE": "1"} if silent else {}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.prepare.hub", json.dumps(vars(data_set))],
        env=os.environ | settings | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if silent:
        raise HubUnreachable(_unanswered(endpoint, silent, data_set), remedy)
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
    raise HubUnreachable(f"the hub at {endpoint} did not give {data_set.name} ({reason.strip()})", remedy)


def _unanswered(endpoint: str, silent: str, data_set: HubName) -> str:
    return f"the hub at {endpoint} did not answer ({silent}) and {data_set.name} was not downloaded before"


def _anything_cached() -> bool:
    """Whether the clients have ever kept a file here; where not, it need not take `datasets` two seconds to say so."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("HF_HOME") or Path(caches) / "huggingface")
    kept = ("HF_DATASETS_CACHE", "datasets"), ("HF_HUB_CACHE", "hub"), ("HUGGINGFACE_HUB_CACHE", "hub")
    folders = [Path(os.environ.get(variable) or home / name).expanduser() for variable, name in kept]
    return any(any(folder.glob("*")) for folder in folders)


def _silence(endpoint: str) -> str | None:
    """Why the hub does not answer, or None if it does, be it with an error page."""
    reason: list[str | None] = [f"no answer in {_PATIENCE:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_PATIENCE):
                reason[0] = None
        except urllib.error.HTTPError:
            reason[0] = None
        except (OSError, ValueError) as error:
            reason[0] = str(getattr(error, "reason", error))

    # A thread, since the resolver of names has no timeout of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return reason[0]


def _main(data_set: dict[str, Any]) -> None:
    """In the child: load the data set, print where its files lie."""
    import datasets

    loaded = datasets.load_dataset(data_set["name"], data_set["config"], revision=data_set["revision"])
    assert isinstance(loaded, datasets.DatasetDict), type(loaded)
    files = {str(split): [entry["filename"] for entry in part.cache_files] for split, part in loaded.items()}
    print(json.dumps(files))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
