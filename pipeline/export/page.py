"""A page that is all it needs: the model, the runtime, and what shows them. Opens from disk, asks no network."""

import base64
import gzip
import json
from typing import Any

from h2q.model import ByteModel
from pipeline.export.model_file import write_model
from pipeline.export.wasm import WASM

TEMPLATE = WASM.with_name("page.html")


def write_page(model: ByteModel, told: dict[str, Any], precision: str, halves: frozenset[str]) -> bytes:
    """The page of a plain model, UTF-8."""
    values = {
        # Compressed it would take less room, and a browser more time to begin.
        "@MODEL@": letters(write_model(model, told, precision, halves)),
        "@RUNTIME@": letters(gzip.compress(WASM.read_bytes(), mtime=0)),
        # Nothing in it ends the script.
        "@ABOUT@": json.dumps(told).replace("<", "\\u003c"),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace(name, value)
    return page.encode()


def letters(content: bytes) -> str:
    """Base64, as a browser reads it by itself."""
    return base64.b64encode(content).decode()
