"""What is saved is restored bit by bit, on any devices; what is refused."""

import os

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
from jax.sharding import AxisType

from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.errors import UsageError

pytestmark = WITH_ORBAX


@pytest.fixture
def two(tmp_path):
    """A directory with checkpoints of steps 1 and 2."""
    return save_two(tmp_path / "two")


def test_round_trip_is_bit_identical(tmp_path):
    odd = np.array([0x80000000, 1, 0x7F7FFFFF, 0], np.uint32)  # -0.0, least, largest
    state = state_of(7) | {"odd": jnp.asarray(odd.view(np.float32))}
    with Checkpoints(tmp_path / "new" / "run") as checkpoints:
        assert checkpoints.restore(state) is None
        checkpoints.save(7, state)
        restored = checkpoints.restore(state)
    assert restored.step == 7
    assert_identical(restored.state, state)
    for got, want in zip(*map(jax.tree.leaves, (restored.state, state)), strict=True):
        assert isinstance(got, jax.Array) and got.sharding == want.sharding


def test_float64(tmp_path, x64):
    state = {"wide": jnp.linspace(0.0, 1.0, 7), "integers": jnp.arange(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state)
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

    like = jax.tree.map(struct, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        restored = checkpoints.restore(like)
    assert_identical(restored.state, state)
    assert restored.state["model"]["float32"].sharding == place
    assert restored.state["mask"].sharding.device_set == place.device_set


def test_state_may_be_donated_once_save_returns(tmp_path):
    negate = jax.jit(lambda x: -x, donate_argnums=0)
    x = jax.device_put(jnp.arange(1 << 20, dtype=jnp.float32), sharding(8, "data"))
    want = np.array(x)
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(4):
            checkpoints.save(step, {"x": x})
            for _ in range(3):
                x = negate(x)
            restored = checkpoints.restore({"x": x})
            np.testing.assert_array_equal(restored.state["x"], want)
            want = -want


def test_keeps_the_newest(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, state_of(step), wait=True)
        assert sorted(os.listdir(tmp_path)) == ["00000020", "00000030"]
        for step in (29, 30):
            message = f"`step` must be at least 31, after the newest .*, got {step}"
            with pytest.raises(ValueError, match=message):
                checkpoints.save(step, state_of(step))
        for step in (40, 50):
            checkpoints.save(step, state_of(step))
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        for step in (60, 70):
            checkpoints.save(step, state_of(step))
    assert len(os.listdir(tmp_path)) == 4
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(80, state_of(80))
    assert os.listdir(tmp_path) == ["00000080"]


def test_other_structure_is_named_and_not_skipped(two):
    like = state_of(0)
    like["new"] = like.pop("mask")
    like["count"] = jnp.zeros(2)
    with pytest.raises(UsageError) as error:
        restore(two, like)
    assert str(error.value) == (
        f"The checkpoint must have the arrays of this network, got {two}/00000002, "
        "which differs: missing new; count is int32[] where float32[2] is wanted; "
        "unexpected mask"
    )
    like = {"x": jax.ShapeDtypeStruct((6,), jnp.float32, sharding=sharding(4, "data"))}
    with Checkpoints(two) as checkpoints:
        checkpoints.save(3, {"x": jnp.zeros(6)})
        with pytest.raises(ValueError, match="partitioned 4 times"):
            checkpoints.restore(like)


def test_reading_writes_nothing(two):
    """As for the export of a run that is still going on."""
    unfinished = two / "00000003.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(two.rglob("*"))
    restored, warnings = restore(two, state_of(0))
    assert (restored.step, warnings) == (2, [])
    assert sorted(two.rglob("*")) == before
    assert restore(two / "none", state_of(0)) == (None, [])
    assert not (two / "none").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_what_is_not_finite(tmp_path, value):
    state = {"params": {"b": jnp.array([1.0, value])}, "count": jnp.zeros(1, jnp.int32)}
    message = "params/b is no longer finite after step 3; lower --learning-rate"
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(FloatingPointError, match=message):
            checkpoints.save(4, state)
    assert not os.listdir(tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)
    with Checkpoints(tmp_path) as checkpoints:
        one = {"x": jnp.zeros(1)}
        with pytest.raises(ValueError, match="`step` must be at least 0, .* got -1"):
            checkpoints.save(-1, one)
        with pytest.raises(
            ValueError, match=r"must have leaves with unique .* got \[\]"
        ):
            checkpoints.save(0, {})
        twice = {"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}
        with pytest.raises(ValueError, match="unique paths, got .*a/b.*a/b"):
            checkpoints.save(0, twice)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_directory_that_cannot_be_one(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Checkpoints need a directory that can be wri"):
        Checkpoints(tmp_path / name)
