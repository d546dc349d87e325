"""A task goes to a worker as text and comes back the same, password and all."""

from pathlib import Path

import pytest

from pipeline.prepare.inputs import InputPart, Reading
from pipeline.prepare.tasks import Task
from pipeline.storage.path import locate


@pytest.mark.parametrize("text", ["/text", "s3://me:pass@bucket/te%20xt?region=r"])
def test_a_task_survives_its_text(text: str) -> None:
    folder = locate(text)
    parts = (
        InputPart(folder / "a b.txt", "a b.txt", "text", 0, 9, 9),
        InputPart(Path("/x/\udce9"), "x", "csv", 0, 1, 1),
    )
    task = Task("train", 3, ("train",), False, parts, folder, Reading(separator="\n"), 100, 0.1, 7)
    assert Task.from_json(task.to_json()) == task
