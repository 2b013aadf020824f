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


def test_batch_norm_agrees_in_three_ways():
    found = re.findall(r"loss ([\d.]+), parameters (\S+)", printed("nnx_devices.py"))
    losses, differences = zip(*found, strict=True)
    assert len(found) == 3 and len(set(losses)) == 1
    assert max(map(float, differences)) < 1e-6


def test_linen_learns():
    found = re.findall(r"invariance ([\d.]+)", printed("linen_step.py"))
    assert float(found[-1]) < float(found[0]) / 2


def test_equinox_learns_and_keeps_its_weights():
    found = re.findall(r"loss ([\d.]+), mu ([\d.]+)", printed("equinox_step.py"))
    losses, weights = zip(*found, strict=True)
    assert float(losses[-1]) < float(losses[0]) / 2
    assert set(weights) == {"25.0"}


def accuracies(shown):
    """Returns the accuracies that an example printed, in percent."""
    return {
        name: float(value)
        for name, value in re.findall(r"^(.+): .*?([\d.]+)%$", shown, re.MULTILINE)
    }
