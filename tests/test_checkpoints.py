"""What is saved comes back bit by bit, on whatever devices; what is refused."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpointing import (
    WITH_ORBAX,
    assert_identical,
    restore,
    save_two,
    sharding,
    state_of,
)
from grids import thinned
from jax.sharding import AxisType, SingleDeviceSharding

from vicreg_jax.pretrain.checkpoints import Checkpoints

pytestmark = WITH_ORBAX


@pytest.fixture
def two(tmp_path):
    """A folder with checkpoints of steps 1 and 2."""
    return save_two(tmp_path / "two")


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


@pytest.mark.parametrize("devices", thinned([1, 2, 4], keep=[2]))
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
