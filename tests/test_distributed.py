"""One run in two processes with two devices each, on one machine."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import NO_ROOM, checkpoints, end, start, started, wait_for

from parity.processes import free_address
from vicreg_jax.pretrain import records

pytestmark = pytest.mark.slow
HEARTBEAT = 20  # seconds


def pair(out):
    """Starts both processes of the run."""
    flags = ["--distributed", "--num-processes", "2", "--heartbeat", str(HEARTBEAT)]
    flags += ["--coordinator", free_address(), "--process-id"]
    return [start(out, *flags, str(process), devices=2) for process in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in one process with four devices."""
    out = tmp_path_factory.mktemp("alone")
    with started(start(out, devices=4)) as (process,):
        status, said = end(process)
    assert status == 0, said
    return records.read(out / "metrics.jsonl")


def agrees(out, alone):
    """Compares the metrics of two processes with those of one."""
    lines = records.read(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [line["step"] for line in alone]
    assert [line["order"] for line in lines] == [line["order"] for line in alone]
    for name in ("loss", "invariance", "variance", "covariance", "std"):
        ours, theirs = ([line[name] for line in run] for run in (lines, alone))
        # Rounding errors grow from step to step.
        np.testing.assert_allclose(ours[:5], theirs[:5], rtol=1e-5)
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_two_processes_are_one_run(alone, tmp_path):
    with started(*pair(tmp_path)) as processes:
        ended = [end(process) for process in processes]
    assert [status for status, _ in ended] == [0, 0], ended
    agrees(tmp_path, alone)
    assert (tmp_path / "report.png").exists()


def test_the_end_of_one_is_the_end_of_both_until_they_go_on(alone, tmp_path):
    with started(*pair(tmp_path)) as processes:
        wait_for(lambda: checkpoints(tmp_path), *processes)
        processes[1].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        status, said = end(processes[0])
        # A missed heartbeat, and the time to report it on a busy machine.
        assert time.monotonic() - killed < 3 * HEARTBEAT + 30
    assert status not in (0, 75), said
    with started(*pair(tmp_path)) as processes:
        ended = [end(process) for process in processes]
    assert [status for status, _ in ended] == [0, 0], ended
    assert "Going on after step" in ended[0][1]
    agrees(tmp_path, alone)


@pytest.mark.parametrize("which", [0, 1])
def test_what_one_cannot_write_ends_both(tmp_path, which):
    """The disk of one is full: both end with an error, the last checkpoint stays."""
    with started(*pair(tmp_path)) as processes:
        wait_for(lambda: checkpoints(tmp_path), *processes)
        resource.prlimit(processes[which].pid, resource.RLIMIT_FSIZE, (0, 0))
        ended = [end(process) for process in processes]
    status, said = ended[which]
    assert status == 2 and re.search(NO_ROOM, said, re.M), ended
    # The other finds it gone, by its own error or by JAX's heartbeat.
    assert ended[1 - which][0] in (1, 2, -signal.SIGABRT), ended
    left = checkpoints(tmp_path)
    with started(*pair(tmp_path)) as processes:
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


def test_told_to_stop_both_save(tmp_path):
    with started(*pair(tmp_path)) as processes:
        wait_for(lambda: checkpoints(tmp_path), *processes)
        processes[1].send_signal(signal.SIGTERM)
        ended = [end(process) for process in processes]
    assert [status for status, _ in ended] == [75, 75], ended
    assert len(records.read(tmp_path / "metrics.jsonl")) == checkpoints(tmp_path)[-1]
