"""Every example runs as its first lines say, and learns something."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(name):
    """Runs an example, optimized, since it computes for longer than it compiles."""
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return done.stdout


def test_train_step_beats_raw_pixels():
    program = EXAMPLES / "train_step.py"
    assert len(program.read_text().splitlines()) < 80
    found = re.findall(r"labels: ([\d.]+)%", printed(program.name))
    vicreg, pixels = map(float, found)
    assert vicreg > pixels > 50


def test_three_ways_to_spread_a_step_agree():
    seen = printed("data_parallel.py")
    found = re.findall(r"loss ([\d.]+), new parameters differ by (\S+)", seen)
    losses, differences = zip(*found, strict=True)
    assert len(found) == 4 and len(set(losses)) == 1
    assert max(map(float, differences)) < 1e-6
