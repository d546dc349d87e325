"""What Ray reads from the environment: what is set for it here, and what it cannot stand."""

import os
import re
import subprocess
import sys
from functools import cache

from h2q.errors import require

QUIET = {
    # `report` and the end of a run wait for the controller's next look at its workers: 2 s by default. Ten looks a
    # second cost 3.5 % of a core.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # Each print of a worker would appear twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Relative paths mean the same in a worker as in the command that started it.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A task without a GPU must not lose sight of the others (and Ray must not warn about it).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A worker that hangs does not take part in the end of its group: 30 s by default.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""For any Ray, and for its workers on every node."""

PRIVATE = {
    # Ray's way on macOS and Windows, for Linux too: its servers listen on 127.0.0.1, not on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # As fast as the same work without Ray: workers would have to wait for all else on this machine.
    "RAY_worker_niceness": "0",
    # Nobody takes this machine away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""For a Ray of this machine alone."""

_MODE = "RAY_AUTH_MODE"
_MODES = ("token", "disabled")


def check_environment() -> None:
    """Refuse what Ray cannot read; call before Ray is imported.

    Raises: UserError naming the variable, or those that it may be.
    """
    mode = os.environ.get(_MODE, _MODES[0])
    require(  # any other word is to Ray what `disabled` is
        mode.lower() in _MODES,
        f"{_MODE} must be {' or '.join(_MODES)}, got {mode!r}: unset it for a Ray that asks for a token",
    )
    # The settings of its C++ part have names in small letters; a value of another type is a segmentation fault.
    tried = {name: value for name, value in os.environ.items() if re.match(r"RAY_[a-z]", name)}
    tried = {name: value for name, value in tried.items() if PRIVATE.get(name) != value}
    if tried and "ray" not in sys.modules:
        named = ", ".join(f"{name}={value!r}" for name, value in sorted(tried.items()))
        require(
            _loads_with(named),
            f"the environment must hold what Ray can read, but Ray does not load with {named}: unset it",
        )


@cache
def _loads_with(named: str) -> bool:
    """Whether Ray can be imported, with these settings in the environment: tried once, in another process."""
    return subprocess.run([sys.executable, "-c", "import ray"], capture_output=True).returncode == 0
