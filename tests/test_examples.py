"""Every example runs as its first lines say, and learns something."""

import re
from pathlib import Path

import pytest
import quick_compilation
from matplotlib.image import imread
from processes import FLAGS, completed

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(name, *arguments, devices=1, optimized=False):
    """Runs an example, compiled quickly unless its steps take longer than compiling."""
    as_users_do = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": FLAGS}
    environment = as_users_do if optimized else quick_compilation.environment(FLAGS)
    environment = environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
    done = completed(EXAMPLES / name, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_step_beats_raw_pixels():
    program = EXAMPLES / "train_step.py"
    assert len(program.read_text().splitlines()) < 80
    found = re.findall(r"labels: ([\d.]+)%", printed(program.name, optimized=True))
    vicreg, pixels = map(float, found)
    assert vicreg > pixels > 50


def test_three_ways_to_spread_a_step_agree():
    seen = printed("data_parallel.py", devices=8)
    found = re.findall(r"loss ([\d.]+), new parameters differ by (\S+)", seen)
    losses, differences = zip(*found, strict=True)
    assert len(found) == 4 and len(set(losses)) == 1
    assert max(map(float, differences)) < 1e-6


def test_batch_norm_agrees_in_three_ways():
    found = re.findall(
        r"loss ([\d.]+), parameters (\S+)", printed("nnx_devices.py", devices=8)
    )
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


def percent(shown):
    """Returns the percentages in what an example printed, by the name before them."""
    found = re.findall(r"^(.+?): .*?([\d.]+)%$", shown, re.MULTILINE)
    return {name: float(value) for name, value in found}


@pytest.mark.slow
def test_photographs_find_their_kind(tmp_path):
    arguments = ("--epochs", 4, "--out", tmp_path)
    shown = printed("own_photographs.py", *arguments)
    shares = percent(shown)
    assert shares["VICReg"] > shares["raw pixels"] + 20
    (picture,) = tmp_path.glob("*/features.png")
    assert imread(picture).std() > 0.05
    assert "features of two images: (2, 128)" in shown


@pytest.mark.slow
def test_spectra_beat_their_numbers():
    shares = percent(printed("spectra.py"))
    assert shares["VICReg"] > 95
    assert max(shares["raw pixels"], shares["untrained"]) < 85


@pytest.mark.slow
def test_pytorch_gets_its_encoder_back():
    shown = printed("from_pytorch.py", "--epochs", 2)
    differences = re.findall(r"differ by (\S+)", shown)
    assert len(differences) == 2 and max(map(float, differences)) < 1e-5
    assert float(re.findall(r"moved the features by ([\d.]+)", shown)[0]) > 0


@pytest.mark.slow
def test_a_run_is_stopped_and_extended():
    shown = printed("stop_resume_extend.py")
    assert "ended with status 75" in shown
    found = re.findall(r"finished: (\w+), (\d+) steps", shown)
    assert [finished for finished, _ in found] == ["False", "True", "True"]
    stopped, *finished = (int(steps) for _, steps in found)
    assert 11 <= stopped < 44 and finished == [44, 66]
    assert "Extending the run from 4 to 6 epochs" in shown
