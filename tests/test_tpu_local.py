"""What VICRegL's local loss asks of TPUs: compiled by libtpu, with none attached.

The local part of a ResNet-50 run: 2048 images, 7x7 maps of 512 channels, two views, the
official settings, value and gradient, on 64 chips. `pytest -s` prints what was found.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax import aot
from vicreg_jax.local import local_loss

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("optimized", "small_kernels"),
    pytest.mark.skipif(not aot.available(), reason="libtpu is not installed"),
]
MIB = 2**20
BATCH, SIDE, CHANNELS, CHIPS = 2048, 7, 512, 64
# Of each view: the whole map, what the other map's positions were matched with, and by
# location 20 and 4 positions as the one side of a match, and as the other.
SLOTS = 2 * (49 + 49 + 2 * (20 + 4))
PRODUCTS = SLOTS * CHANNELS**2 * 4
OWN_SLOTS = SLOTS * BATCH // CHIPS * CHANNELS * 4


@cache
def compiled(way, dtype):
    """Returns the report on one way to compute value and gradient."""
    kind = AxisType.Explicit if way == "explicit" else AxisType.Auto
    mesh = aot.mesh("v5e:8x8", axis_type=kind)
    rows = NamedSharding(mesh, P("data"))
    shape = (BATCH, SIDE, SIDE)
    x = jax.ShapeDtypeStruct((*shape, CHANNELS), dtype, sharding=rows)
    p = jax.ShapeDtypeStruct((*shape, 2), jnp.float32, sharding=rows)
    loss = local_loss
    if way == "shard_map":
        loss = jax.shard_map(
            partial(local_loss, axis_name="data"),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P(),
        )
    found = aot.report(jax.value_and_grad(loss, argnums=(0, 1)), x, x, p, p)
    print(
        f"\n{way:9} {jnp.dtype(dtype).name:8} {found.temporaries / MIB:8.1f} MiB "
        f"{found.flops / 1e9:8.2f} GFLOP",
        *(f"{kind} {moved / MIB:.1f} MiB" for kind, moved in found.moved.items()),
        end="",
    )
    return found


@pytest.mark.parametrize(
    "way, dtype",
    [("auto", jnp.float32), ("explicit", jnp.bfloat16), ("shard_map", jnp.bfloat16)],
)
def test_budget(way, dtype):
    """One sum over devices of the products of all slots, and nothing else that counts.

    Images never move. Temporaries are the products and a few copies of the own slots.
    """
    found = compiled(way, dtype)
    assert set(found.moved) <= {"all-reduce"}
    assert sum(found.moved.values()) <= PRODUCTS + 2 * MIB
    assert found.temporaries <= PRODUCTS + 4 * OWN_SLOTS
    products = SLOTS * 2 * 2 * (BATCH // CHIPS) * CHANNELS**2
    assert products <= found.flops <= 1.2 * products
