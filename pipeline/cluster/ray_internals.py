"""All that leans on private parts of Ray: what each buys, and why it is harmless where Ray changes them.

Seconds are of one start on two cores with Ray 2.60; a start without any of it works the same and takes longer.
"""

from contextlib import suppress
from typing import Any

import psutil

NEEDLESS_CALLBACKS = frozenset({"DatasetsCallback"})
"""Ray Train's callbacks for data sets that nobody hands out here: workers read their lanes themselves."""

NEEDLESS_ON_A_PRIVATE_RAY = frozenset({"PlacementGroupCleanerCallback"})
"""It starts a process that cleans up behind a driver; a private Ray ends with its driver."""


def drop_needless_callbacks(trainer: Any, *, private: bool) -> None:
    """Take from a Ray Train trainer the callbacks that start a process in vain: 1.5 to 2 s of a CPU each, just when the
    workers start. Where Ray renames one, or the method that lists them, it is kept, and a run starts more slowly."""
    listed = getattr(trainer, "_create_default_callbacks", None)
    if listed is None:
        return
    needless = NEEDLESS_CALLBACKS | (NEEDLESS_ON_A_PRIVATE_RAY if private else frozenset())
    trainer._create_default_callbacks = lambda: [each for each in listed() if type(each).__name__ not in needless]


def start_coordinator_early() -> None:
    """Start an actor that Ray Train's controller will ask for and wait for, while the controller starts itself. Where
    Ray moves it, the controller starts it as usual."""
    with suppress(Exception):
        from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

        coordinator.get_or_create_autoscaling_coordinator()


def end_autoscaler() -> None:
    """End the autoscaler of a private Ray before the rest: told to end with it, it asks for a second, in vain, the part
    of Ray that has ended before. Where Ray renames the process, that second is waited for."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(part.endswith("autoscaler/_private/monitor.py") for part in child.cmdline()):
                child.kill()
