"""The same work on many pieces: one after the other in this process, or side by side by Ray Data."""

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from h2q.errors import UserError

Work = Callable[[str], dict[str, Any]]
"""From a piece of work, as text, to its result, a dict that JSON can hold. A function of a module."""


def results(work: Work, pieces: list[str], *, local: bool, everywhere: bool) -> Iterator[dict[str, Any]]:
    """The results as they come, in any order. `everywhere`: all nodes see what the work reads and writes.

    Raises: UserError of any piece.
    """
    return map(work, pieces) if local else _by_ray(work, pieces, everywhere)


def _by_ray(work: Work, pieces: list[str], everywhere: bool) -> Iterator[dict[str, Any]]:
    if not pieces:
        return
    import ray

    quiet_ray_data()
    where = None
    if not everywhere:
        here, cpus, alone = _this_node()
        if cpus < 1:
            # The head of a cluster often has no CPUs to give: then this process does it itself.
            yield from map(work, pieces)
            return
        where = None if alone else {"ray.io/node-id": here}
    rows = [{"piece": piece} for piece in pieces]
    run_row = partial(_run_row, work)
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(run_row, num_cpus=1, label_selector=where)
    for row in data.iter_rows():
        result = json.loads(row["result"])
        if "error" in result:
            raise UserError(result["error"])
        yield result


def _run_row(work: Work, row: dict[str, Any]) -> dict[str, Any]:
    """A piece on a worker. A user's mistake travels as a value: Ray would wrap the exception in a long traceback."""
    try:
        return {"result": json.dumps(work(row["piece"]))}
    except UserError as error:
        return {"result": json.dumps({"error": str(error)})}


def _this_node() -> tuple[str, float, bool]:
    """The id of the node of this command, the CPUs it has to give, and whether it is the only one."""
    import ray

    alive = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
    mine = ray.get_runtime_context().get_node_id()
    return mine, alive[mine], len(alive) == 1


def quiet_ray_data() -> None:
    """Keep Ray Data from drawing its own progress bars and from telling its plans."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
