"""A state with leaves of many dtypes, and how to save, restore and compare it."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.pretrain import checkpoints

# When one of its reads fails, Orbax drops the others: coroutines are never awaited, and
# reads of TensorStore end after the event loop that they report to.
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
    """Returns a state that is a pure function of its step."""
    place = place or sharding(8, "data")
    rng = np.random.default_rng(step)
    rows = jax.device_put(rng.standard_normal((8, 6), np.float32), place)
    return {
        "model": {kind: rows.astype(kind) for kind in KINDS},
        "mask": rows > 0,
        "count": jnp.asarray(step, jnp.int32),
        "list": [
            jax.device_put(np.arange(8, dtype=np.int32) + np.int32(step), place),
            jnp.uint32(step),
        ],
    }


def bits(leaf):
    array = np.asarray(leaf)
    return array.dtype, array.shape, array.tobytes()


def assert_identical(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert bits(one) == bits(other)


def restore(directory, like):
    """Returns what a new process would restore, and the warnings."""
    warnings = []
    restored = checkpoints.restore(directory, like, warn=warnings.append)
    gc.collect()  # what Orbax dropped, here and not in another test
    return restored, warnings


def save_two(directory):
    """Saves checkpoints of steps 1 and 2, and returns their directory."""
    with checkpoints.Checkpoints(directory) as store:
        for step in (1, 2):
            store.save(step, state_of(step))
    return directory
