"""A page that is all it needs: the model, the runtime, and what shows them. Opens from disk, asks no network."""

import base64
import json
from typing import Any

from h2q.model import ByteModel
from pipeline.export.model_file import write_model
from pipeline.export.wasm import WASM

TEMPLATE = WASM.with_name("page.html")


def write_page(model: ByteModel, told: dict[str, Any], precision: str, halves: frozenset[str]) -> bytes:
    """The page of a plain model, UTF-8."""
    values = {
        "@MODEL@": base64.b64encode(write_model(model, told, precision, halves)).decode(),
        "@RUNTIME@": base64.b64encode(WASM.read_bytes()).decode(),
        # Nothing in it ends the script.
        "@ABOUT@": json.dumps(told).replace("<", "\\u003c"),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace(name, value)
    return page.encode()
