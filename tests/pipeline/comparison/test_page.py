"""The page of a comparison."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.comparison.compare import compare
from pipeline.comparison.compared_run import from_folder
from pipeline.comparison.page import write_page
from pipeline.comparison.picture import picture
from pipeline.config import RunConfig
from pipeline.runs.folder import RunFolder
from pipeline.training.summary import Summary

Make = Callable[..., RunConfig]
Train = Callable[[RunConfig], tuple[Summary, RunFolder, str]]


def test_the_page_needs_nothing_and_believes_nothing(tmp_path: Path, tiny: Make, train: Train) -> None:
    _, folder, _ = train(tiny(tmp_path, growing=True))
    run = from_folder(folder)
    comparison = compare([run, replace(run, name="<script>alert(1)</script>", sample="</pre><b>", corpus="caf\udce9")])
    png = picture(comparison)
    assert png.startswith(b"\x89PNG\r\n")
    write_page(comparison, png, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert r"caf\udce9" in text
    assert "<script" not in text and "&lt;script&gt;" in text and "</pre><b>" not in text
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s)>]{1,30})", text)
    assert addresses and all(address.startswith("data:image/png;base64,") for address in addresses)
