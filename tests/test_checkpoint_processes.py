"""Saving in processes that are killed, that find the disk full, or that are two."""

import random
import re
import shutil
import subprocess
import time
from functools import partial

import jax
import numpy as np
import pytest
from checkpointing import WITH_ORBAX, restore, sharding
from processes import PROGRAMS, Process, end, started, wait_for

from parity.processes import free_address

pytestmark = WITH_ORBAX


def has_saved(process, times):
    return process.output().count("saving") >= times


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
    """Each process checks the checkpoints of the one killed before it."""
    choose, last, cut_off = random.Random(0), 0, 0
    for _ in range(16):
        saves, moment = choose.randint(1, 3), choose.uniform(0.0, 0.1)
        with started(Process(PROGRAMS / "saves_forever.py", tmp_path)) as (process,):
            wait_for(partial(has_saved, process, saves), process)
            time.sleep(moment)
            process.kill()
            status, printed = end(process)
        assert status == -9, printed
        step, warnings = map(int, re.search(r"^(\d+) (\d+)$", printed, re.M).groups())
        print("step", step, "saves cut off", warnings)
        assert step >= last
        # Each save waits for the one before it.
        last = step + printed.count("saving") - 1
        cut_off += warnings
    assert last > 3
    assert cut_off


def assert_fills(directory, how, reason):
    with started(Process(PROGRAMS / "fills_the_disk.py", directory, how)) as (process,):
        status, printed = end(process)
    assert status == 0, printed
    assert printed.count(f"step 2 could not be written to {directory} ") == 2, printed
    kept = "(those before it are left as they were)"
    assert printed.count(f"{kept}: {reason}\n") == 2, printed


@pytest.mark.slow
def test_files_that_may_not_grow(tmp_path):
    assert_fills(tmp_path, "limit", "File too large")


@pytest.mark.slow
def test_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small file system to fill cannot be mounted here")
    try:
        assert_fills(tmp_path, "disk", "No space left on device")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.slow
def test_two_processes(tmp_path):
    address = free_address()
    program = PROGRAMS / "one_of_two.py"
    pair = [Process(program, address, tmp_path, which) for which in (0, 1)]
    with started(*pair):
        ended = [end(process) for process in pair]
    for error, (status, printed) in zip(
        ("FileNotFoundError in process 0", "Exception in process 1"), ended, strict=True
    ):
        assert status == 0, printed
        assert printed.count(error) == 2
        assert "union ['0', '1', 'both']" in printed
        assert "`state` must be the same in every process, but differs" in printed
        assert "whole" in printed
    x = np.random.default_rng(2).standard_normal((8, 6)).astype(np.float32)
    for rows in (sharding(4, "data"), sharding(2, None, "data")):
        struct = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
        restored, warnings = restore(tmp_path, {"rows": struct, "all": struct})
        assert (restored.step, warnings) == (2, [])
        for name in ("rows", "all"):
            np.testing.assert_array_equal(restored.state[name], x)
