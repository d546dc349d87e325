"""Many moments of a text on one page, to scrub through: HTML with its data in it, which loads nothing."""

import json
from pathlib import Path

from pipeline.projector.reading import Reading, signs

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(path: Path, readings: list[Reading], title: str) -> None:
    """Write the page of moments in the order of the text."""
    told = [
        {
            "offset": reading.offset,
            **{name: signs(data) for name, data in (("was", reading.was), ("said", reading.said))},
            **{name: signs(data) for name, data in (("came", reading.came), ("expected", reading.expected))},
            "right": [a == b for a, b in zip(reading.was, reading.said, strict=True)],
            "guessed": [a == b for a, b in zip(reading.came, reading.expected, strict=True)],
        }
        for reading in readings
    ]
    data = json.dumps({"title": title, "moments": told}, ensure_ascii=False, separators=(",", ":"))
    # In a script no text ends it but this one.
    path.write_text(
        TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", data.replace("</", "<\\/")),
        encoding="utf-8",
        errors="backslashreplace",
    )
