"""A Ray session: quiet, private to this machine unless told to join a cluster, with enough CPUs and GPUs."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from h2q.errors import Terminated, UserError, first_line, require
from pipeline.cluster.environment import PRIVATE, QUIET, check_environment
from pipeline.cluster.ray_internals import end_autoscaler
from pipeline.cluster.submitted import submitted
from pipeline.cluster.token import keep_token_private
from pipeline.threads import waits

_HEAR_SECONDS = 10
"""How long a cluster's head may take to speak."""


def quiet_ray(*, verbose: bool) -> None:
    """Keep Ray's own messages off the terminal, and set what its workers inherit. Call before Ray is imported.

    Raises: UserError for a variable of the environment that Ray cannot read.
    """
    check_environment()
    for name, value in (QUIET | waits()).items():
        os.environ.setdefault(name, value)
    if not verbose:
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def find_address(address: str | None) -> str:
    """The cluster that is meant: HOST:PORT, `auto` for the one that runs on this machine, `local` for a private one.

    None: the one that RAY_ADDRESS names, which `ray job submit` sets, and `local` where that is not set.
    Raises: UserError, within seconds, when it is not spoken to in this way, nobody answers, or not as Ray does.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address in ("local", "auto"):
        return address
    host, _, port = address.rpartition(":")
    require(
        "/" not in address and host != "" and port.isdecimal(),
        f"address must be HOST:PORT of a Ray cluster, or auto, got {address!r}: where jobs are submitted to an http:// "
        "address, say ray job submit --address http://HOST:8265 --working-dir . -- python jobs/train.py …",
    )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, UnicodeError, OverflowError) as error:
        raise _unanswered(address, error) from error
    if os.environ.get("RAY_USE_TLS", "0") == "0":
        _hear(address)
    return address


def _hear(address: str) -> None:
    """Wait until what listens there says something that Ray's head would: Ray itself would wait for minutes, loudly."""
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_HEAR_SECONDS)
        except grpc.FutureTimeoutError as error:
            silent = f"what listens there has not spoken as a Ray head does within {_HEAR_SECONDS} s"
            raise _unanswered(address, TimeoutError(silent)) from error


def _unanswered(address: str, error: BaseException) -> UserError:
    return UserError(
        f"no Ray cluster answers at {address} ({first_line(error)}): start one with ray start --head, or leave out "
        "--address and RAY_ADDRESS for a Ray of this machine"
    )


@contextmanager
def ray_session(
    *, verbose: bool, address: str | None = None, dashboard: bool = False, aside: Executor | None = None
) -> Iterator[None]:
    """Join the cluster at the address (see `find_address`), or start a Ray of this machine alone; leave or end it.

    A Ray that this process has joined already is used as it is. `dashboard`: also where nobody wants to see it.
    `aside`: where to leave it or let it end, while this thread goes on.
    Raises: UserError when no cluster answers.
    """
    address = find_address(address)
    quiet_ray(verbose=verbose)
    if address == "local":
        for name, value in PRIVATE.items():
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    keep_token_private()
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.CRITICAL,
    }
    if address == "local":
        try:
            ray.init(include_dashboard=None if verbose else dashboard, **options)
        except Exception as error:  # RuntimeError, OSError, RayError, …: whatever of this machine it does not like
            raise UserError(
                f"Ray does not start on this machine ({first_line(error)}): do without it with --local, or see more "
                "with --verbose"
            ) from error
    else:
        try:
            ray.init(runtime_env=_runtime_env(), **options)
        except Exception as error:  # as above; also a token that is not the cluster's
            raise _unanswered(address, error) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # Ray's own prints a stack and aborts
    try:
        yield
    finally:
        aside.submit(_end) if aside else _end()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _end() -> None:
    """Leave Ray, or end the private one."""
    import ray

    end_autoscaler()
    ray.shutdown()


def _runtime_env() -> dict[str, Any]:
    """What the workers of a cluster need that those of a private Ray inherit: this project, and quiet settings."""
    if submitted():
        return {}  # the folder that was submitted is there, and its environment is the job's
    root = Path(__file__).parents[2]
    return {"py_modules": [str(root / "h2q"), str(root / "pipeline")], "env_vars": QUIET | waits()}
