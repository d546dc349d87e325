"""cluster.yaml and the RayJob: valid, closed to the world, and of the versions that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "pipeline" / "cluster" / "rayjob.yaml").read_text())


def pods() -> list[dict[str, Any]]:
    """The pod specifications of the RayJob: the head's, then those of its groups of workers."""
    spec = rayjob()["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_ray_accepts_it(monkeypatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    validate_config(prepare_config(cluster()))


@pytest.mark.parametrize(
    "image", [cluster()["docker"]["image"], *(container["image"] for pod in pods() for container in pod["containers"])]
)
def test_ray_and_python_are_those_of_the_project(image: str) -> None:
    found = re.fullmatch(r"rayproject/ray:(\d+)\.(\d+)\.\d+-py3(\d+)-gpu", image)
    assert found, image
    major, minor, python = map(int, found.groups())
    ray = next(need for need in PROJECT["dependencies"] if need.startswith("ray["))
    assert ray.endswith(f">={major}.{minor},<{major}.{minor + 1}")
    lowest, highest = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()  # type: ignore[union-attr]
    assert int(lowest) <= python < int(highest)


def test_setup_installs_what_the_project_depends_on(tmp_path: Path) -> None:
    """The command that makes the list is run; that pip can install it is what the other tests stand on."""
    import subprocess
    import sys

    told = cluster()
    [command] = told["setup_commands"]
    listing, install = command.split(" && ")
    assert install == "pip install -r requirements.txt"
    assert told["file_mounts"]["~/pyproject.toml"] == "pyproject.toml"
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    subprocess.run(listing.replace("python", sys.executable, 1), shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]


def test_every_node_wants_a_token() -> None:
    told = cluster()
    starts = [line for name in ("head", "worker") for line in told[f"{name}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2 and all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
    assert told["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert rayjob()["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_token_is_its_owner_s_alone() -> None:
    for name in ("head", "worker"):
        first = cluster()[f"{name}_start_ray_commands"][0]
        assert first.startswith("chmod -R go= ~/.ray && "), "before Ray starts"
    recipes = (ROOT / "pipeline" / "cluster" / "README.md").read_text()
    made = [line for line in recipes.splitlines() if "get-auth-token" in line]
    assert made and all(line.startswith("(umask 077 && ") and line.endswith("chmod -R go= ~/.ray") for line in made)


def test_nothing_is_open_to_the_world_but_ssh() -> None:
    """The launcher's own security group lets in SSH, and the nodes of the cluster; none of ours opens more."""
    told = cluster()
    assert "security_group" not in told["provider"]
    for kind in told["available_node_types"].values():
        assert not {"SecurityGroupIds", "SecurityGroups", "NetworkInterfaces"} & kind["node_config"].keys()
    assert "--dashboard-host=127.0.0.1" in told["head_start_ray_commands"][1]
    for pod in pods():
        assert not pod.get("hostNetwork") and not any("hostPort" in str(container) for container in pod["containers"])


def test_gpu_workers_are_spot_come_on_demand_and_go_when_idle() -> None:
    told = cluster()
    head, gpu = told["available_node_types"]["head"], told["available_node_types"]["gpu"]
    assert told["head_node_type"] == "head" and head["resources"]["CPU"] == 0, "the head trains nothing"
    assert "InstanceMarketOptions" not in head["node_config"], "the head must stay"
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, told["max_workers"]) and gpu["resources"]["GPU"] == 1
    assert 0 < told["idle_timeout_minutes"] <= 15


# What the API of ray.io/v1 demands of a RayJob of this kind; the parts of pods that are used, after the API of pods.
_QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}
_RESOURCES = {"type": "object", "additionalProperties": _QUANTITY}
_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
_COUNT = {"type": "integer", "minimum": 0}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    """An object of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


_POD = _object(
    "containers",
    containers={
        "type": "array",
        "minItems": 1,
        "items": _object(
            "name image resources",
            name=_NAME,
            image={"type": "string"},
            resources=_object("requests limits", requests=_RESOURCES, limits=_RESOURCES),
            volumeMounts={"type": "array", "items": _object("name mountPath", name=_NAME, mountPath={"pattern": "^/"})},
        ),
    },
    volumes={
        "type": "array",
        "items": _object(
            "name persistentVolumeClaim", name=_NAME, persistentVolumeClaim=_object("claimName", claimName=_NAME)
        ),
    },
)
# Parameters of `ray start` are strings, numbers and truths too.
_GROUP = {
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": _object("spec", spec=_POD),
}
_RAYJOB = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object("name", name=_NAME | {"maxLength": 47}),
    spec=_object(
        "rayClusterSpec submissionMode",
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=_COUNT,
        entrypoint={"type": "string"},
        rayClusterSpec=_object(
            "headGroupSpec",
            rayVersion={"type": "string"},
            authOptions=_object("mode", mode={"enum": ["token", "disabled"]}),
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=_object("", idleTimeoutSeconds=_COUNT) | {"required": []},
            headGroupSpec=_object("template", **_GROUP),
            workerGroupSpecs={
                "type": "array",
                "items": _object(
                    "groupName minReplicas maxReplicas template",
                    groupName=_NAME,
                    replicas=_COUNT,
                    minReplicas=_COUNT,
                    maxReplicas=_COUNT,
                    **_GROUP,
                ),
            },
        ),
    ),
)


def test_the_rayjob_is_what_the_api_takes() -> None:
    import jsonschema

    job = rayjob()
    jsonschema.validate(job, _RAYJOB)
    spec = job["spec"]
    # Rules between fields, which the operator checks.
    assert "ttlSecondsAfterFinished" not in spec or spec["shutdownAfterJobFinishes"]
    assert (spec["submissionMode"] == "InteractiveMode") == ("entrypoint" not in spec)
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods():
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert spec["rayClusterSpec"]["rayVersion"] in container["image"]
