"""One run on several devices, in one process or in two on one machine."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import few_digits
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_run
from interruption import interrupted, tell_to_stop
from processes import (
    NO_ROOM,
    checkpoints,
    end,
    of_two,
    start,
    started,
)

from parity.processes import free_address
from vicreg_jax import vicreg_terms
from vicreg_jax.pretrain import records, step

pytestmark = pytest.mark.slow
HEARTBEAT = 20  # seconds
IN_PROCESS = ("relaxed_promotion", "unchecked_signatures")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Flags for images without labels."""
    return few_digits.unlabeled(tmp_path_factory.mktemp("data"))


def pair(out, flags=(), devices=1):
    """Starts both processes of the run.

    Each has one device unless a test is of more, because exchanging the terms of four
    takes most of the run's time.
    """
    flags = [*flags, *reference_run.FLAGS, "--heartbeat", str(HEARTBEAT)]
    return [start(out, *flags, *one, devices=devices) for one in of_two()]


@pytest.mark.parametrize("fault", ["missing-gather", "world-size"])
@pytest.mark.usefixtures(*IN_PROCESS)
def test_bounds_see_faults(fault, monkeypatch):
    """The loss of four devices with a fault is far from the bounds."""

    def by_device(z1, z2):
        parts = (z.reshape(4, -1, z.shape[-1]) for z in (z1, z2))
        return jax.tree.map(jnp.mean, jax.vmap(vicreg_terms)(*parts))

    def summed(z1, z2):
        terms = vicreg_terms(z1, z2)
        return jax.tree.map(lambda t: 4 * t - jax.lax.stop_gradient(3 * t), terms)

    metrics, _, bounds = reference_run.expected()
    faulty = {"missing-gather": by_device, "world-size": summed}[fault]
    monkeypatch.setattr(step, "view_terms", lambda mesh, *views: faulty(*views))
    found, _ = reference_run.trained(reference_run.programs(), steps=1)
    parts = {
        name: np.abs(found[name][0] - metrics[name][0]) / bounds[name] for name in found
    }
    print("errors in parts of their bounds:", parts)
    assert max(parts.values()) > 100


@pytest.mark.usefixtures(*IN_PROCESS)
def test_two_processes_are_one_run(tmp_path):
    """Of two devices each."""
    out, flags = tmp_path / "run", few_digits.labeled(tmp_path)
    with started(*pair(out, flags, devices=2)) as processes:
        ended = [end(process) for process in processes]
    assert [status for status, _ in ended] == [0, 0], ended
    reference_run.assert_agrees(records.read(out / "metrics.jsonl"))
    assert (out / "report.png").exists()


@pytest.mark.usefixtures(*IN_PROCESS)
def test_the_end_of_one_is_the_end_of_both_until_they_go_on(data, tmp_path):
    killed = []

    def kill(processes):
        processes[1].send_signal(signal.SIGKILL)
        killed.append(time.monotonic())

    out, ended = interrupted(tmp_path, partial(pair, flags=data), kill)
    # A missed heartbeat, and the time to report it on a busy machine.
    assert time.monotonic() - killed[-1] < 3 * HEARTBEAT + 30
    assert ended[0][0] not in (0, 75), ended
    with started(*pair(out, data)) as processes:
        ended = [end(process) for process in processes]
    assert [status for status, _ in ended] == [0, 0], ended
    assert "Going on after step" in ended[0][1]
    reference_run.assert_agrees(records.read(out / "metrics.jsonl"))


@pytest.mark.parametrize("which", [0, 1])
def test_what_one_cannot_write_ends_both(data, tmp_path, which):
    """The disk of one is full: both end with an error, the last checkpoint stays."""

    def fill(processes):
        resource.prlimit(processes[which].pid, resource.RLIMIT_FSIZE, (0, 0))

    out, ended = interrupted(tmp_path, partial(pair, flags=data), fill)
    status, printed = ended[which]
    assert status == 2 and re.search(NO_ROOM, printed), ended
    # The other finds it gone, by its own error or by JAX's heartbeat.
    assert ended[1 - which][0] in (1, 2, -signal.SIGABRT), ended
    left = checkpoints(out)
    with started(*pair(out, data)) as processes:
        ended = [end(process) for process in processes]
    assert [status for status, _ in ended] == [0, 0], ended
    assert f"Going on after step {left[-1]}" in ended[0][1]


def test_ends_though_its_error_cannot_be_printed(tmp_path):
    """The output goes to a full disk: it ends with 2, at once."""
    flags = ["--distributed", "--num-processes", "1", "--process-id", "0"]
    flags += ["--coordinator", free_address(), "--batch", "63"]
    command = [sys.executable, "-m", "vicreg_jax.pretrain", "--out", tmp_path, *flags]
    with Path("/dev/full").open("w") as full:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
        done = subprocess.run(
            command, check=False, stdout=full, stderr=full, env=environment
        )
    assert done.returncode == 2


@pytest.mark.usefixtures(*IN_PROCESS)
def test_told_to_stop_both_save_and_one_goes_on(data, tmp_path):
    """On four devices. Each step sees the same images, so only rounding differs."""
    out, ended = interrupted(tmp_path, partial(pair, flags=data), tell_to_stop)
    assert [status for status, _ in ended] == [75, 75], ended
    assert len(records.read(out / "metrics.jsonl")) == checkpoints(out)[-1]
    flags = [*data, *reference_run.FLAGS]
    with started(start(out, *flags, devices=4)) as (process,):
        status, printed = end(process)
    assert status == 0 and "Going on after step" in printed, printed
    reference_run.assert_agrees(records.read(out / "metrics.jsonl"))
