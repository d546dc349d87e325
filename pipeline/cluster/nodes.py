"""Whether every node that may train sees the storage and the prepared corpus: looked at before training begins."""

import hashlib
import uuid

from h2q.errors import UserError, require
from pipeline.cluster.resources import Resources
from pipeline.storage.path import AnyPath, write_file
from pipeline.storage.uri import remove

SECONDS = 120.0
"""How long nodes may take to answer: they start a process for it."""


def check_nodes(storage: AnyPath, manifest: AnyPath, resources: Resources) -> None:
    """Let every other node that could hold a worker look for a file written here, and write one that is found here.

    Costs nothing where there is no other node. Call in the driver, on the Ray that is initialised. Raises: UserError
    naming the node, the path and what to do.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: _name(node) for node in ray.nodes() if node["NodeID"] != here and _fits(node, resources)}
    if not nodes:
        return
    digest = _digest(manifest)
    probe = storage / f".probe-{uuid.uuid4().hex}"
    answers = {node: probe.parent / f"{probe.name}-{node[:12]}" for node in nodes}
    write_file(probe, probe.name.encode())
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                probe, answers[node], manifest, digest
            ): node
            for node in nodes
        }
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS)
        require(
            not silent,
            f"{', '.join(nodes[asked[one]] for one in silent)} did not answer within {SECONDS:.0f} s: look after it, "
            "or take it out of the cluster",
        )
        for one in answered:
            node = asked[one]
            try:
                problem = ray.get(one)
            except RayError:
                continue  # it has left the cluster, so that no worker will be there
            if problem is None and not _holds(answers[node], probe.name):
                problem = (str(storage), "--storage", ", or what it writes there does not arrive here")
            if problem is not None:
                raise UserError(_complaint(nodes[node], *problem))
    finally:
        for path in (probe, *answers.values()):
            remove(path)


def check_here(config: AnyPath, manifest: AnyPath) -> None:
    """The same for this worker's own node, which may be a new one: the config of the run and the corpus must be there.

    Raises: UserError naming the node.
    """
    for path, option in ((config, "--storage"), (manifest, "--corpus.prepared")):
        if not path.exists():
            raise UserError(_complaint(_this_node(), str(path.parent), option))


def _look(probe: AnyPath, answer: AnyPath, manifest: AnyPath, digest: str) -> tuple[str, str, str] | None:
    """On a node: what is not seen from there, as (path, option, reason), or None."""
    try:
        if not _holds(probe, probe.name):
            return str(probe.parent), "--storage", ""
        write_file(answer, probe.name.encode())
    except (UserError, OSError) as error:
        return str(probe.parent), "--storage", f" ({error})"
    try:
        found = _digest(manifest)
    except FileNotFoundError:
        return str(manifest.parent), "--corpus.prepared", ""
    except (UserError, OSError) as error:
        return str(manifest.parent), "--corpus.prepared", f" ({error})"
    return None if found == digest else (str(manifest.parent), "--corpus.prepared", " as this node does")


def _complaint(node: str, path: str, option: str, reason: str = "") -> str:
    return (
        f"{node} does not see {path}{reason}: give {option} a folder on a disk that all nodes share (NFS), or a URI "
        "such as s3://bucket/folder"
    )


def _holds(path: AnyPath, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except FileNotFoundError:
        return False


def _digest(path: AnyPath) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fits(node: dict, resources: Resources) -> bool:
    """Whether a worker could be placed on the node."""
    there = node["Resources"]
    return node["Alive"] and there.get("CPU", 0) >= resources.cpus and there.get("GPU", 0) >= int(resources.gpu)


def _name(node: dict) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:12]})"


def _this_node() -> str:
    import ray

    if not ray.is_initialized():
        return "this machine"
    return f"node {ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:12]})"
