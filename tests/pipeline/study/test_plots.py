"""The picture of a study, by its axes."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pipeline.study import plots
from pipeline.study.result import CURRENCIES, Outcome


def test_a_currency_is_an_axis_unless_all_cost_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ones = [
        Outcome(
            family, dim, (2.5 - dim / 1e3, 2.6 - dim / 1e3), dict.fromkeys(CURRENCIES, 1e3 * dim) | {"seconds": 40}, 2.5
        )
        for family in ("hamilton", "dense")
        for dim in (128, 256, 512)
    ]
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    plots.draw(ones, "s", tmp_path / "study.png")
    [figure] = drawn
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    time, work, *_ = figure.axes
    assert [tick.get_text() for tick in time.get_xticklabels()] == ["128", "256", "512"]
    assert time.get_xlabel() == "width, model.dim, at equal time of training"
    assert work.get_xlabel() == "multiply-adds of training" and "200k" in [
        one.get_text() for one in work.get_xticklabels()
    ]


def test_there_is_no_picture_of_nothing(tmp_path: Path) -> None:
    plots.draw([], "s", tmp_path / "study.png")
    assert not list(tmp_path.iterdir())
