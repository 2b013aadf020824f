"""Every example runs as its first lines say, and learns something."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_train_step_beats_raw_pixels():
    program = EXAMPLES / "train_step.py"
    assert len(program.read_text().splitlines()) < 80
    run = subprocess.run(
        [sys.executable, program], check=True, capture_output=True, text=True
    )
    vicreg, pixels = map(float, re.findall(r"labels: ([\d.]+)%", run.stdout))
    assert vicreg > pixels > 50


@pytest.mark.slow
def test_three_ways_to_spread_a_step_agree():
    program = EXAMPLES / "data_parallel.py"
    run = subprocess.run(
        [sys.executable, program], check=True, capture_output=True, text=True
    )
    found = re.findall(r"loss ([\d.]+), new parameters differ by (\S+)", run.stdout)
    losses, differences = zip(*found, strict=True)
    assert len(found) == 4 and len(set(losses)) == 1
    assert max(map(float, differences)) < 1e-6
