"""What probes of ImageNet's features ask of TPUs: compiled by libtpu, none attached.

`pytest -s` prints what was found, per chip.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax import aot
from vicreg_jax.probe import knn, logistic, ridge
from vicreg_jax.probe._inputs import Rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not aot.available(), reason="libtpu is not installed"),
    pytest.mark.usefixtures("optimized", "small_kernels", "relaxed_promotion"),
]
MIB = 2**20
CHIPS, WIDTH, CLASSES = 64, 2048, 1000
# Of 1,281,167 training and 50,000 test images, padded to equally many on each chip.
TRAIN, TEST = 64 * 128 * 157, 64 * 16 * 49
COPY = TRAIN // CHIPS * WIDTH * 4


def rows(mesh, shape, dtype):
    return jax.ShapeDtypeStruct(
        shape, dtype, sharding=NamedSharding(mesh, P(mesh.axis_names))
    )


def bank(mesh):
    features = rows(mesh, (TRAIN, WIDTH), jnp.bfloat16)
    return Rows(features, rows(mesh, (TRAIN,), jnp.int32))


def show(name, found):
    print(
        f"\n{name:9} arguments {found.arguments / MIB:7.1f} MiB, temporaries "
        f"{found.temporaries / MIB:7.1f} MiB,",
        *(f"{kind} {moved / MIB:.2f} MiB" for kind, moved in found.moved.items()),
        end="",
    )


def test_nearest_neighbors():
    """The features of a chip, and beside them a block of similarities and its order."""
    mesh = aot.mesh("v5e:8x8")
    found = aot.report(
        lambda bank, where, queries: knn.search(
            bank, where, queries, neighbors=20, block=16, mesh=mesh
        ),
        bank(mesh).features,
        rows(mesh, (TRAIN,), bool),
        rows(mesh, (TEST, WIDTH), jnp.bfloat16),
    )
    show("k-NN", found)
    assert found.arguments <= (TRAIN + TEST) // CHIPS * (WIDTH * 2 + 1) + MIB
    block = 1024 * 8192 * (4 + 4)
    assert found.temporaries <= 3 * block
    # A block of queries, and the 20 best rows on each chip for a chip's share of them.
    assert sum(found.moved.values()) <= 1024 * (WIDTH * 2 + 20 * (4 + 4)) + MIB


def test_sums_for_ridge_regression():
    """The products are formed without a float32 copy of a chip's rows.

    What follows, an eigendecomposition of width by width, is the same on any mesh.
    """
    mesh = aot.mesh("v5e:8x8")
    found = aot.report(
        lambda rows, held_out: ridge.moments(rows, held_out, classes=CLASSES),
        bank(mesh),
        rows(mesh, (TRAIN,), bool),
    )
    show("ridge", found)
    matrices = 2 * WIDTH * (WIDTH + CLASSES) * 4
    assert found.temporaries <= MIB
    # Both Gram matrices and the products with the classes, once.
    assert sum(found.moved.values()) <= matrices + MIB


def test_logistic_regression():
    """A float32 copy of a chip's rows, its scores, and the optimizer's memory.

    L-BFGS keeps ten steps and ten changes of the gradient, and a few matrices more.
    """
    mesh = aot.mesh("v5e:8x8")
    found = aot.report(
        lambda rows: logistic.minimize(
            rows, 50.0, 1e-7, classes=CLASSES, max_iterations=1000
        ),
        bank(mesh),
    )
    show("logistic", found)
    lanes = 1024  # TPUs pad the classes to a multiple of 128
    scores = TRAIN // CHIPS * lanes * 4
    weights = WIDTH * lanes * 4
    assert found.temporaries <= COPY + 2 * scores + 28 * weights
    # At each place in the program that has a gradient: the scores never move.
    assert sum(found.moved.values()) <= 6 * weights
