"""Checkpoints survive kills, full disks, flipped bits and other numbers of devices."""

import gc
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from parity.processes import free_address
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.checkpoints.digest import digests

# Where one of its reads fails, Orbax forgets the others: coroutines that are never
# awaited, and reads of TensorStore's that end after the event loop they report to.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KINDS = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int32", "int8", "uint16")


def sharding(devices, *spec, kind=AxisType.Auto):
    mesh = jax.make_mesh(
        (devices,), ("data",), (kind,), devices=jax.devices()[:devices]
    )
    return NamedSharding(mesh, P(*spec))


def state_of(step, place=None):
    """A state of many kinds of leaves that is a pure function of its step."""
    place = place or sharding(8, "data")
    rng = np.random.default_rng(step)
    rows = jax.device_put(rng.standard_normal((8, 6), np.float32), place)
    return {
        "model": {kind: rows.astype(kind) for kind in KINDS},
        "mask": rows > 0,
        "count": jnp.asarray(step, jnp.int32),
        "key": jax.random.key(step),
        "keys": jax.device_put(jax.random.split(jax.random.key(step), 8), place),
        "rbg": jax.random.key(step, impl="rbg"),
        "host": [rng.standard_normal(3), np.float32(step), np.array([True, False])],
    }


def bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), bits(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    return array.dtype, array.shape, array.tobytes()


def assert_identical(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert bits(one) == bits(other)


def restore(folder, like):
    """What a new process would find, with what it would be told."""
    warnings = []
    with Checkpoints(folder, warn=warnings.append) as checkpoints:
        restored = checkpoints.restore(like)
    gc.collect()  # what Orbax forgot, here and not in another test
    return restored, warnings


@pytest.fixture
def two(tmp_path):
    """A folder with checkpoints of steps 1 and 2."""
    with Checkpoints(tmp_path / "two") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step), {"at": step})
    return tmp_path / "two"


def test_round_trip_is_bit_identical(tmp_path):
    extra = {"hash": "ab", "input": {"seed": 1, "rows": [1, 2]}, "rate": 0.1}
    odd = np.array([0x7FC00001, 0xFFFFFFFF, 0x80000000, 1], np.uint32)  # NaNs, -0.0
    state = state_of(7) | {"odd": jnp.asarray(odd.view(np.float32))}
    with Checkpoints(tmp_path / "new" / "run") as checkpoints:
        assert checkpoints.restore(state) is None
        checkpoints.save(7, state, extra)
        restored = checkpoints.restore(state)
    assert (restored.step, restored.extra) == (7, extra)
    assert_identical(restored.state, state)
    for got, want in zip(*map(jax.tree.leaves, (restored.state, state)), strict=True):
        assert isinstance(got, jax.Array) == isinstance(want, jax.Array)
        assert not isinstance(want, jax.Array) or got.sharding == want.sharding


def test_float64(tmp_path, x64):
    state = {"wide": jnp.linspace(0.0, 1.0, 7), "host": np.arange(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state, {})
        assert_identical(checkpoints.restore(state).state, state)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_restores_on_other_devices(tmp_path, devices, kind):
    state = state_of(3, sharding(8, "data", kind=kind))
    place = sharding(devices, *([None, "data"] if devices == 2 else ["data"]))

    def struct(leaf):
        fits = leaf.ndim == 2 or devices != 2
        put = place if leaf.ndim and fits else sharding(devices)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=put)

    del state["host"]
    like = jax.tree.map(struct, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {})
        restored = checkpoints.restore(like)
    assert_identical(restored.state, state)
    assert restored.state["model"]["float32"].sharding == place
    assert restored.state["keys"].sharding.device_set == place.device_set


def test_struct_without_sharding(two):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_of(2))
    like["host"] = state_of(2)["host"]
    restored, _ = restore(two, like)
    assert_identical(restored.state, state_of(2))
    assert isinstance(restored.state["mask"].sharding, SingleDeviceSharding)


def test_state_may_be_donated_once_save_returns(tmp_path):
    negate = jax.jit(lambda x: -x, donate_argnums=0)
    x = jax.device_put(jnp.arange(1 << 20, dtype=jnp.float32), sharding(8, "data"))
    want = np.array(x)
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(4):
            checkpoints.save(step, {"x": x}, {})
            for _ in range(3):
                x = negate(x)
            restored = checkpoints.restore({"x": x})
            np.testing.assert_array_equal(restored.state["x"], want)
            want = -want


def test_keeps_the_newest_and_the_last_of_a_step(tmp_path):
    with Checkpoints(tmp_path, keep=2, every=10) as checkpoints:
        assert [s for s in range(31) if checkpoints.due(s)] == [10, 20, 30]
        for step in (10, 20, 30):
            checkpoints.save(step, state_of(step), {}, wait=True)
        assert sorted(os.listdir(tmp_path)) == ["00000020", "00000030"]
        checkpoints.save(30, state_of(31), {"again": True}, wait=True)
        assert sorted(os.listdir(tmp_path)) == ["00000020", "00000030-1"]
        restored = checkpoints.restore(state_of(0))
        assert restored.extra == {"again": True}
        assert_identical(restored.state, state_of(31))
        with pytest.raises(ValueError, match="before the newest .* 30, got 29"):
            checkpoints.save(29, state_of(29), {})
        for step in (40, 50):
            checkpoints.save(step, state_of(step), {})
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        assert not checkpoints.due(10)
        for step in (60, 70):
            checkpoints.save(step, state_of(step), {})
    assert len(os.listdir(tmp_path)) == 4
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(80, state_of(80), {})
    assert os.listdir(tmp_path) == ["00000080"]


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_not_fooled(folder, like):
    """It restores the newest as it was, or says why it took the one before."""
    restored, warnings = restore(folder, like)
    assert_identical(restored.state, state_of(restored.step))
    assert restored.extra == {"at": restored.step}
    if restored.step == 2:
        assert not warnings
        return False
    assert restored.step == 1
    (warning,) = warnings
    assert f"{folder / '00000002'} is skipped: " in warning
    return True


@pytest.mark.parametrize("places", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_flipped_bits(two, places):
    """One bit, in every file of the newest checkpoint, at several places."""
    choose, like, noticed = random.Random(places), state_of(0), 0
    for path in files(two / "00000002"):
        for _ in range(places):
            bit = choose.randrange(8 * path.stat().st_size)
            flip(path, bit)
            noticed += assert_not_fooled(two, like)
            flip(path, bit)
    assert noticed > 2 * places
    assert restore(two, like)[0].step == 2


def test_flipped_bits_of_values(tmp_path):
    """Bits of the values themselves, which Orbax alone restores without a word."""
    values = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(1024)}, {})
        checkpoints.save(2, {"x": jnp.asarray(values)}, {})
    largest = max(files(tmp_path / "00000002"), key=lambda path: path.stat().st_size)
    for bit in range(8 * 1000, 8 * 3000, 997):
        flip(largest, bit)
        restored, (warning,) = restore(tmp_path, {"x": jnp.zeros(1024)})
        assert restored.step == 1
        assert "skipped" in warning
        flip(largest, bit)


@pytest.mark.parametrize("harm", ["missing", "truncated", "emptied", "zeros"])
def test_harmed_files(two, harm):
    for path in files(two / "00000002"):
        content = path.read_bytes()
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "zeros": bytes(len(content)),
            }.get(harm, b"")
        )
        if harm == "missing":
            path.unlink()
        assert_not_fooled(two, state_of(0))
        path.write_bytes(content)
    assert restore(two, state_of(0))[0].step == 2


def test_what_is_no_checkpoint(two, tmp_path):
    like = state_of(0)
    (two / "00000003").mkdir()
    (two / "00000004").write_text("garbage")
    (two / "00000005.orbax-checkpoint-tmp").mkdir()
    shutil.copytree(two / "00000002", two / "00000006")
    (two / "config.json").write_text("{}")
    warnings = []
    with Checkpoints(two, keep=2, warn=warnings.append) as checkpoints:
        assert checkpoints.restore(like).step == 2
        reasons = ("of step 2 under", "was cut off", "cannot be read", "cannot be read")
        for warning, reason in zip(warnings, reasons, strict=True):
            assert reason in warning
        checkpoints.save(5, state_of(5), {}, wait=True)
    left = ["00000002", "00000005", "00000006", "config.json"]
    assert sorted(os.listdir(two)) == left
    for name in left:
        shutil.rmtree(two / name, ignore_errors=True)
    assert restore(two, like) == (None, [])


def test_warns_by_default(two):
    (two / "00000003").mkdir()
    with Checkpoints(two) as checkpoints:
        with pytest.warns(UserWarning, match="00000003 is skipped: its manifest"):
            assert checkpoints.restore(state_of(0)).step == 2


def test_other_structure_is_named_and_not_skipped(two):
    like = state_of(0)
    like["new"] = like.pop("mask")
    like["count"] = jnp.zeros(2)
    with pytest.raises(ValueError) as error:
        restore(two, like)
    assert str(error.value) == (
        "`like` must have the leaves of the checkpoint of step 2, which differs: "
        "missing new; count is int32[] where float32[2] is wanted; unexpected mask"
    )
    like = {"x": jax.ShapeDtypeStruct((6,), jnp.float32, sharding=sharding(4, "data"))}
    with Checkpoints(two) as checkpoints:
        checkpoints.save(3, {"x": jnp.zeros(6)}, {})
        with pytest.raises(ValueError, match="`like` at x must have a sharding that"):
            checkpoints.restore(like)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="`every` must be None or at least 1, got 0"):
        Checkpoints(tmp_path, every=0)
    with Checkpoints(tmp_path) as checkpoints:
        save = partial(checkpoints.save, extra={})
        one = {"x": jnp.zeros(1)}
        with pytest.raises(ValueError, match="`step` must not be before .* got -1"):
            save(-1, one)
        with pytest.raises(ValueError, match="`state` must hold an array, got {}"):
            save(0, {})
        with pytest.raises(TypeError, match="at a/0 must be a JAX or NumPy .* got int"):
            save(0, {"a": [3]})
        with pytest.raises(TypeError, match="at x must hold PRNG .* got complex64"):
            save(0, {"x": jnp.zeros(1, jnp.complex64)})
        with pytest.raises(TypeError, match="at x must hold PRNG .* got int4"):
            save(0, {"x": jnp.zeros(1, jnp.int4)})
        with pytest.raises(ValueError, match=r"must not be empty, got shape \(0,\)"):
            save(0, {"x": jnp.zeros(0)})
        with pytest.raises(ValueError, match="a path of its own, got a/b twice"):
            save(0, {"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})
        with pytest.raises(TypeError, match="`extra` must be what JSON can hold"):
            save(0, one, extra={"x": one})
        with pytest.raises(TypeError, match="`extra` must come back from JSON"):
            save(0, one, extra={"x": (1, 2)})
    assert not os.listdir(tmp_path)


def test_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="`folder` must be a folder, got a"):
        Checkpoints(tmp_path / "file")
    with Checkpoints(tmp_path / "file" / "below") as checkpoints:
        with pytest.raises(OSError, match="`folder` must be one that can be written"):
            checkpoints.save(0, {"x": jnp.zeros(1)}, {})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "float64"])
def test_digest_changes_with_every_bit(dtype, x64):
    """Every bit of a small leaf, and every pair of its elements swapped."""
    x = np.random.default_rng(0).standard_normal(12).astype(jnp.dtype(dtype))
    x = x.reshape(3, 4)
    digest = lambda x: digests({"x": x})["x"]  # noqa: E731
    seen = [digest(x)]
    bytewise = x.view(np.uint8).reshape(-1)
    for byte, bit in itertools.product(range(bytewise.size), range(8)):
        if dtype == "bool" and bit:
            continue  # such a byte is no boolean
        bytewise[byte] ^= 1 << bit
        seen.append(digest(x))
        bytewise[byte] ^= 1 << bit
    assert len(set(seen)) == len(seen)
    for i, j in itertools.combinations(range(x.size), 2):
        swapped = x.reshape(-1).copy()
        swapped[[i, j]] = swapped[[j, i]]
        same = (swapped == x.reshape(-1)).all()
        assert (digest(swapped.reshape(x.shape)) == seen[0]) == same


def test_digest_is_the_same_however_sharded(x64):
    x = np.random.default_rng(0).standard_normal((8, 16))
    for dtype in ("float64", "float32", "bfloat16"):
        host = x.astype(jnp.dtype(dtype))
        seen = {digests({"x": host})["x"], digests({"x": jnp.asarray(host)})["x"]}
        for spec, kind in itertools.product(
            [(), ("data",), (None, "data")], [AxisType.Auto, AxisType.Explicit]
        ):
            put = jax.device_put(host, sharding(8, *spec, kind=kind))
            seen.add(digests({"x": put})["x"])
        assert len(seen) == 1
    # Computed by hand for one word: the formula is part of the format.
    assert digests({"x": np.zeros(1, np.uint32)}) == {"x": by_hand(0)}


def by_hand(word):
    def mix(w):
        w = (w ^ w >> 16) * 0x85EBCA6B % 2**32
        w = (w ^ w >> 13) * 0xC2B2AE35 % 2**32
        return w ^ w >> 16

    seeds = (0x243F6A88, 0xB7E15162)
    return "".join(f"{mix((word + mix(seed)) % 2**32):08x}" for seed in seeds)


def start(program, *arguments, **environment):
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    assert restored.extra == {"step": step}
print(step, len(told), flush=True)
for step in itertools.count(step + 1):
    checkpoints.save(step, state(step), {"step": step})
    print("saving", flush=True)
    if step % 3 == 0:
        checkpoints.wait()
"""


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
    """Each process checks what the one killed before it left."""
    choose, steps, cut_off = random.Random(0), [], 0
    for _ in range(16):
        process = start(SAVES_FOREVER, tmp_path)
        step, told = map(int, process.stdout.readline().split() or (-1, 0))
        process.stdout.readline()  # the first save is under way
        time.sleep(choose.uniform(0.0, 0.4))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -9, errors
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
    checkpoints.save(1, small, {}, wait=True)
    if sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    before = sorted(Path(sys.argv[1]).rglob("*"))
    for wait in (True, False):
        try:
            checkpoints.save(2, large, {}, wait=wait)
            checkpoints.save(3, small, {})
        except OSError as error:
            print(error)
    assert sorted(Path(sys.argv[1]).rglob("*")) == before
    restored = checkpoints.restore(small)
    assert restored.step == 1 and (restored.state["x"] == small["x"]).all()
    checkpoints.save(3, small, {}, wait=True)
    assert checkpoints.restore(small).step == 3
"""


def assert_fills(folder, how, reason):
    process = start(FILLS, folder, how)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    said = f"step 2 could not be written to {folder} "
    assert out.count(said) == 2, out
    assert out.count(f"(those before it are left as they were): {reason}\n") == 2, out


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
    key = jax.jit(jax.random.key, out_shardings=NamedSharding(mesh, P()))(step)
    return {"rows": put("data"), "all": put(), "host": x, "key": key}

told = []
with Checkpoints(folder, warn=told.append) as checkpoints:
    for step in (1, 2, 2):
        checkpoints.save(step, state(step), {"at": step})
    try:
        checkpoints.save(3, state(3), {"process": process})
    except ValueError as error:
        print(error)
    restored = checkpoints.restore(state(0))
    assert restored.step == 2 and not told
    same = lambda a, b: (jax.random.key_data(a) == jax.random.key_data(b)).all()
    want = state(2)
    assert same(restored.state.pop("key"), want.pop("key"))
    assert all((restored.state[name] == x).all() for name, x in want.items())
    if process == 0:
        (folder / "00000002-1" / "manifest" / "metadata").unlink()
    restored = checkpoints.restore(state(0))
    assert restored.step == 1 and len(told) == 1, told
    checkpoints.save(2, state(2), {"at": 2})
print("whole")
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    address = free_address()
    processes = [start(ONE_OF_TWO, address, tmp_path, process) for process in (0, 1)]
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "`extra`, like every NumPy array, must be the same" in out
        assert "whole" in out
    x = np.random.default_rng(2).standard_normal((8, 6)).astype(np.float32)
    for rows in (sharding(4, "data"), sharding(2, None, "data")):
        struct = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
        like = {"rows": struct, "all": struct, "host": x, "key": jax.random.key(0)}
        restored, warnings = restore(tmp_path, like)
        assert (restored.step, warnings) == (2, [])
        for name in ("rows", "all", "host"):
            np.testing.assert_array_equal(restored.state[name], x)
