"""One of two processes that hold half of the batch each: run by `test_devices`.

python tests/two_processes.py ADDRESS PROCESS
"""

import sys
from functools import partial
from unittest import mock

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import vicreg_jax as vj
from parity.oracle import numpy_loss
from vicreg_jax.pretrain.processes import union
from vicreg_jax.probe import knn


def start(address, process):
    """Joins the other process, and brings four devices along."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(address, num_processes=2, process_id=process)
    assert jax.device_count() == 8 and len(jax.local_devices()) == 4


def check(process, n, d, axis_type, mapped, padded):
    """Compares the own half of the gradients, and the value, with the oracle."""
    rng = np.random.default_rng([n, d])
    z1, z2 = rng.standard_normal((2, n, d)) * rng.uniform(0.3, 2, d) + 0.3
    where = rng.random(n) < 0.6 if padded else np.ones(n, bool)
    where[: n // 8] &= not padded
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    half = slice(process * n // 2, (process + 1) * n // 2)
    rows = NamedSharding(mesh, P("data"))
    batch = [
        jax.make_array_from_process_local_data(rows, a[half], a.shape)
        for a in (z1, z2, where)
    ]

    def loss(z1, z2, where, axis_name=None):
        return vj.vicreg_loss(z1, z2, 25.0, 25.0, where=where, axis_name=axis_name)

    if mapped:
        loss = jax.shard_map(
            partial(loss, axis_name="data"),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P(),
        )
    value, got = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*batch)
    want = numpy_loss(z1[where], z2[where])
    np.testing.assert_allclose(np.asarray(value), want.total, rtol=1e-12)
    for dz, wanted in zip(got, (want.dz1, want.dz2), strict=True):
        gradient = np.zeros((n, d))
        gradient[where] = wanted
        scale = 1e-12 * np.abs(wanted).max()
        for shard in dz.addressable_shards:
            np.testing.assert_allclose(
                shard.data, gradient[shard.index], rtol=0, atol=scale
            )


def check_neighbors():
    """Searches rows of the host, which no device has all of."""

    def no_copy(*_, **__):
        raise AssertionError("all rows would be copied to every device")

    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((37, 6)), rng.standard_normal((11, 6))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with mock.patch.object(multihost_utils, "assert_equal", no_copy):
        found = knn.nearest(bank, queries, neighbors=1, mesh=mesh)
    cosines = queries @ (bank / np.linalg.norm(bank, axis=1, keepdims=True)).T
    nearest = multihost_utils.process_allgather(found.indices, tiled=True)
    np.testing.assert_array_equal(nearest[:11, 0], cosines.argmax(1))


def check_union(process):
    """Gathers names of different lengths."""
    own = {f"image of {process}" * (1 + process), "ü"}
    assert union(own) == {"image of 0", "image of 1image of 1", "ü"}


def main():
    """Checks every shape in every way."""
    address, process = sys.argv[1], int(sys.argv[2])
    start(address, process)
    check_union(process)
    check_neighbors()
    for n, d in ((16, 96), (72, 24)):
        for padded in (False, True):
            check(process, n, d, AxisType.Auto, mapped=False, padded=padded)
            check(process, n, d, AxisType.Explicit, mapped=False, padded=padded)
            check(process, n, d, AxisType.Auto, mapped=True, padded=padded)


if __name__ == "__main__":
    main()
