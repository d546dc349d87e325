"""cluster.yaml: valid for Ray's launcher, and of the versions that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def test_ray_accepts_it(monkeypatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    validate_config(prepare_config(yaml.safe_load(Path("cluster.yaml").read_text())))


def test_ray_and_python_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]["image"]
    found = re.fullmatch(r"rayproject/ray:(\d+\.\d+)\.\d+-py3(\d+)-gpu", image)
    assert found, image
    ray = next(need for need in project["dependencies"] if need.startswith("ray["))
    assert f">={found[1]}" in ray
    lowest, highest = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()  # type: ignore[union-attr]
    assert int(lowest) <= int(found[2]) < int(highest)


def test_every_node_wants_a_token() -> None:
    told = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    starts = [line for name in ("head", "worker") for line in told[f"{name}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2 and all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
