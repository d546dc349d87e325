"""What is shown is what there is: paths as they are named, sizes as people read them, rates of what is done."""

import re
import time
from io import StringIO
from pathlib import Path

import pytest

from pipeline.events import Event
from pipeline.terminal import Display, human_bytes, new_console

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", ["/data/a:b:c/x.txt", "/x/:smile:/[b]"])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_path_is_shown_as_it_is(path: str, terminal: bool) -> None:
    said = StringIO()
    console = new_console(file=said, width=80, force_terminal=terminal, highlight=False)
    console.print(path, markup=False)
    with Display(console) as display:
        display.say(path)
    assert said.getvalue().count(path) == 2


def test_every_job_shows_paths_so() -> None:
    others = [path.name for path in (ROOT / "jobs").glob("*.py") if re.search(r"\bConsole\(", path.read_text())]
    assert others == []


@pytest.mark.parametrize("count", [999.4, 999.6, 999_400, 999_600, 999_499_999, 999_500_000, 9.996e11])
def test_sizes_have_three_digits_and_no_exponent(count: float) -> None:
    number, unit = human_bytes(count).split()
    assert "e" not in number and 1 <= float(number) < 1000
    assert float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit) == pytest.approx(count, rel=5e-3)


def test_the_rate_of_a_stage_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    display, shown = Display(new_console(file=StringIO())), list[str]()
    for stage, seconds, done in [("a", 0, 0), ("a", 100, 1000), ("b", 200, 0), ("b", 202, 1000)]:
        now = float(seconds)
        display.preparing(Event("progress", stage, done, 2000))
        shown += [task.fields["status"] for task in display._bar.tasks]
    assert "10 B/s  ETA 1:40" in shown[1] and "/s" not in shown[2] and "500 B/s  ETA 0:02" in shown[3]
