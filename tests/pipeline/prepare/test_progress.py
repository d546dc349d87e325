"""A preparation in a log."""

from io import StringIO

from pipeline.events import Event
from pipeline.prepare.progress import PreparationProgress
from pipeline.terminal import new_console


def test_a_log_has_a_line_for_each_tenth_of_each_stage() -> None:
    said = StringIO()
    with PreparationProgress(new_console(file=said, width=80)) as progress:
        for stage in ("unpacking", "reading", "checking"):
            for done in range(0, 1001, 25):
                progress.preparing(Event("progress", stage, done, 1000))
    lines = said.getvalue().splitlines()
    stages = ("unpacking", "reading", "checking")
    assert lines == [f"{stage}: {tenth:,} of 1,000 bytes" for stage in stages for tenth in range(100, 1001, 100)]
