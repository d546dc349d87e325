"""The command line of the benchmarks: what it measures, it prints and writes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZES = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed-rank": 2, "seq-len": 16}
SMALL = [word for name, value in SIZES.items() for word in (f"--model.{name}", str(value))]


def job(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.ray
def test_a_small_model_is_measured_printed_and_written(tmp_path: Path) -> None:
    done = job(tmp_path, "model", *SMALL, "--lanes", "4", "--rounds", "1", "--precisions", "fp32")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    [written] = (tmp_path / "benchmarks").glob("model-*.json")
    result = json.loads(written.read_text())
    assert result["machine"] and result["rows"]
    for word in ("published", "dense", str(written.name)):
        assert word in done.stdout


@pytest.mark.slow
def test_the_loop_is_measured_beside_its_bare_steps(tmp_path: Path) -> None:
    done = job(tmp_path, "train", "--starts", "0", "--pairs", "0", "--rounds", "1", "--laps", "1", *SMALL)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    [written] = (tmp_path / "benchmarks").glob("train-*.json")
    result = json.loads(written.read_text())
    [row] = result["rows"]
    loop, bare = (result["seconds"][name] for name in ("step of the loop", "bare step"))
    assert row["median"] == pytest.approx(100 * (loop[0] - bare[0]) / loop[0])
    assert list(tmp_path.iterdir()) == [tmp_path / "benchmarks"]


def test_an_unknown_benchmark_is_one_line(tmp_path: Path, call_job: Callable) -> None:
    done = call_job("benchmark", tmp_path, "speed")
    assert done.returncode == 2 and done.stderr.startswith("error: no benchmark is called speed; there are ")
    assert list(tmp_path.iterdir()) == []
