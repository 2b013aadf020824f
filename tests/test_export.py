"""Programs that are exported, stored, and called with batches of other sizes."""

from functools import partial

import jax
import numpy as np
from embeddings import draw
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import vicreg_jax as vj
from parity import modes

DIM = 64
loss = partial(vj.vicreg_loss, lambd=25.0, mu=25.0)
step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def stored(program, z):
    """Returns what is left of a program in a file, and its text."""
    exported = export.export(program)(z, z)
    return export.deserialize(exported.serialize()), exported.mlir_module()


def views(n):
    return np.float32(draw(n, DIM))


def assert_close(got, want):
    # The same sums in another form: a few roundings of float32.
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * scale)


def test_a_batch_of_any_size():
    (batch,) = export.symbolic_shape("batch")
    z = jax.ShapeDtypeStruct((batch, DIM), np.float32)
    loaded, text = stored(step, z)
    # Either form may be the smaller one: X^T X is right for both.
    assert f"tensor<{DIM}x{DIM}xf32>" in text
    for n in (4, 32, 100):
        assert_close(loaded.call(*views(n)), step(*views(n)))


def test_a_batch_that_is_known_to_be_small():
    (batch,) = export.symbolic_shape("batch", constraints=[f"2*batch <= {DIM}"])
    z = jax.ShapeDtypeStruct((batch, DIM), np.float32)
    loaded, text = stored(step, z)
    assert f"tensor<{DIM}x{DIM}xf32>" not in text
    for n in (4, 15, 32):
        assert_close(loaded.call(*views(n)), step(*views(n)))


def test_embeddings_of_any_width():
    (dim,) = export.symbolic_shape("dim")
    z = jax.ShapeDtypeStruct((8, dim), np.float32)
    program = jax.jit(lambda z1, z2: tuple(vj.vicreg_terms(z1, z2)))
    loaded, _ = stored(program, z)
    for d in (4, 40):
        views = np.float32(draw(8, d))
        assert_close(loaded.call(*views), program(*views))


def test_every_public_function():
    (batch,) = export.symbolic_shape("batch", constraints=["batch >= 2"])
    z = jax.ShapeDtypeStruct((batch, DIM), np.float32)
    where = jax.ShapeDtypeStruct((batch,), np.bool_)

    @jax.jit
    def everything(z1, z2, where):
        return (
            *vj.VICRegLoss(25.0, 25.0).terms(z1, z2, where=where),
            vj.invariance(z1, z2),
            vj.variance(z1),
            vj.covariance(z2, where=where),
        )

    loaded = export.deserialize(export.export(everything)(z, z, where).serialize())
    for n in (3, 20, 70):
        arguments = (*views(n), np.arange(n) != 1)
        assert_close(loaded.call(*arguments), everything(*arguments))


def test_a_sharded_batch_of_any_size():
    """Under `jit`. In `shard_map` JAX 0.10.2 crashes on any mean of a symbolic batch.

    Subtracting a column's mean from rows whose number is symbolic is enough, in plain
    JAX: the compiler ends by SIGSEGV. Sizes have to be known there.
    """
    rows = NamedSharding(modes.mesh(axis_type=AxisType.Auto), P("data"))
    (batch,) = export.symbolic_shape("8*each")
    z = jax.ShapeDtypeStruct((batch, DIM), np.float32, sharding=rows)
    loaded, _ = stored(step, z)
    for n in (16, 32, 96):
        got = loaded.call(*(jax.device_put(v, rows) for v in views(n)))
        assert_close(got, step(*views(n)))
