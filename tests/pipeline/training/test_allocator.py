"""The promise: a training step takes its memory from what the step before has freed, without page faults."""

import subprocess
import sys
from statistics import median

import pytest

# In a process of its own: the allocator of this one stays as it is.
FAULTS = """
import resource, torch
from h2q.model import ByteModel
from pipeline.training.allocator import keep_freed_memory
from pipeline.config import PRESETS

keep_freed_memory()
model, x = ByteModel(PRESETS["laptop"].model), torch.randint(256, (8, 128))
for step in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model(x).square().mean().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.ray  # a program of its own
@pytest.mark.skipif(sys.platform != "linux", reason="only the GNU C library's allocator is told")
def test_training_steps_take_no_fresh_memory():
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    faults = [int(line) for line in done.stdout.split()]
    assert faults[0] > 1000 and median(faults[6:]) < 100, faults
