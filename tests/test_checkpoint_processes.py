"""Saving in processes that are killed, that find the disk full, or that are two."""

import random
import re
import shutil
import subprocess
import time

import jax
import numpy as np
import pytest
from checkpointing import WITH_ORBAX, restore, sharding
from processes import Process, end, started, wait_for

from parity.processes import free_address

pytestmark = WITH_ORBAX


SAVES_FOREVER = """
import itertools, sys
from pathlib import Path
import jax.numpy as jnp
import numpy as np
from vicreg_jax.pretrain.checkpoints import Checkpoints

def state(step):
    rng = np.random.default_rng(step)
    shapes = [(4, 300), (7,), (), (300, 400)]
    return {str(s): jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes}

told = []
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2, warn=told.append)
restored = checkpoints.restore(state(0))
step = 0
if restored:
    step = restored.step
    for name, want in state(step).items():
        assert np.asarray(restored.state[name]).tobytes() == np.asarray(want).tobytes()
print(step, len(told), flush=True)
for step in itertools.count(step + 1):
    checkpoints.save(step, state(step))
    print("saving", flush=True)
    if step % 3 == 0:
        checkpoints.wait()
"""


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
    """Each process checks the checkpoints of the one killed before it."""
    choose, steps, cut_off = random.Random(0), [], 0
    for _ in range(16):
        with started(Process("-c", SAVES_FOREVER, tmp_path)) as (process,):
            wait_for(lambda p=process: "saving" in p.summary(), process)
            time.sleep(choose.uniform(0.0, 0.4))
            process.kill()
            status, said = end(process)
        assert status == -9, said
        step, told = map(int, re.search(r"^(\d+) (\d+)$", said, re.M).groups())
        cut_off += told
        steps.append(step)
    print("steps", steps, "saves cut off", cut_off)
    assert steps == sorted(steps)
    assert steps[-1] > 3
    assert cut_off


FILLS = """
import os, resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from vicreg_jax.pretrain.checkpoints import Checkpoints

small = {"x": jax.random.normal(jax.random.key(0), (1000,))}
large = {"x": jax.random.normal(jax.random.key(0), (1_000_000,))}
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    checkpoints.save(1, small, wait=True)
    if sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    before = sorted(Path(sys.argv[1]).rglob("*"))
    for wait in (True, False):
        try:
            checkpoints.save(2, large, wait=wait)
            checkpoints.save(3, small)
        except OSError as error:
            print(error)
    assert sorted(Path(sys.argv[1]).rglob("*")) == before
    restored = checkpoints.restore(small)
    assert restored.step == 1 and (restored.state["x"] == small["x"]).all()
    checkpoints.save(3, small, wait=True)
    assert checkpoints.restore(small).step == 3
"""


def assert_fills(folder, how, reason):
    with started(Process("-c", FILLS, folder, how)) as (process,):
        status, said = end(process)
    assert status == 0, said
    assert said.count(f"step 2 could not be written to {folder} ") == 2, said
    kept = "(those before it are left as they were)"
    assert said.count(f"{kept}: {reason}\n") == 2, said


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


ONE_OF_TWO = """
import sys
from pathlib import Path
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

address, folder, process = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=process)
from vicreg_jax.pretrain.checkpoints import Checkpoints

mesh = jax.make_mesh((8,), ("data",))

def state(step):
    x = np.random.default_rng(step).standard_normal((8, 6)).astype(np.float32)
    put = lambda *spec: jax.make_array_from_callback(
        x.shape, NamedSharding(mesh, P(*spec)), lambda index: x[index]
    )
    return {"rows": put("data"), "all": put()}

told = []
with Checkpoints(folder, warn=told.append) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, state(step))
    other = np.full((8, 6), process, np.float32)
    differs = jax.make_array_from_callback(
        other.shape, NamedSharding(mesh, P()), lambda index: other[index]
    )
    try:
        checkpoints.save(3, state(3) | {"all": differs})
    except ValueError as error:
        print(error)
    restored = checkpoints.restore(state(0))
    assert restored.step == 2 and not told
    for name, want in state(2).items():
        assert (restored.state[name] == want).all()
    for harm in ("manifest/metadata", "state/manifest.ocdbt"):
        if process == 0:
            (folder / "00000002" / harm).unlink()
        restored = checkpoints.restore(state(0))
        assert restored.step == 1 and len(told) == 1, told
        told.clear()
        checkpoints.save(2, state(2), wait=True)
    assert checkpoints.restore(state(0)).step == 2 and not told
print("whole")
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    address = free_address()
    pair = [Process("-c", ONE_OF_TWO, address, tmp_path, which) for which in (0, 1)]
    with started(*pair):
        ended = [end(process) for process in pair]
    for status, said in ended:
        assert status == 0, said
        assert "`state` must be the same in every process, but differs" in said
        assert "whole" in said
    x = np.random.default_rng(2).standard_normal((8, 6)).astype(np.float32)
    for rows in (sharding(4, "data"), sharding(2, None, "data")):
        struct = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
        restored, warnings = restore(tmp_path, {"rows": struct, "all": struct})
        assert (restored.step, warnings) == (2, [])
        for name in ("rows", "all"):
            np.testing.assert_array_equal(restored.state[name], x)
