"""A state of every kind of leaf, and what becomes of it in storage."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.pretrain.checkpoints import Checkpoints

# Where one of its reads fails, Orbax forgets the others: coroutines that are never
# awaited, and reads of TensorStore's that end after the event loop they report to.
WITH_ORBAX = [
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


def save_two(folder):
    """Saves checkpoints of steps 1 and 2, and returns their folder."""
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step), {"at": step})
    return folder
