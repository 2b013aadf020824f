"""The same number on any number of devices."""

import os
import re
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embeddings import draw
from grids import thinned
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import WEIGHTS, numpy_loss, rounding_bounds, stored

import vicreg_jax as vj
from parity import modes, processes
from vicreg_jax import _rows
from vicreg_jax._moments import uses_gram_matrix

# Fewer rows than columns, at the switch of the product, just above it, as many, more.
# Last, whether some of the rows are padding: with and without, for either product.
SHAPES = [
    (16, 96, True),
    (32, 64, False),
    (32, 62, True),
    (64, 64, False),
    (72, 24, False),
]
every_mode = pytest.mark.parametrize("mode", modes.MODES.values(), ids=modes.MODES)


def loss_of(weights=WEIGHTS):
    def loss(z1, z2, *, where=None, axis_name=None):
        return vj.vicreg_loss(z1, z2, *weights, where=where, axis_name=axis_name)

    return loss


def padding(n):
    """Rows that count, unevenly many a device, none on the first."""
    where = np.random.default_rng(n).random(n) < 0.6
    where[: n // 8] = False
    where[-2:] = True
    return where


def whole(z1, z2, where):
    """The oracle's gradients, with zeros for the rows that do not count."""
    rows = slice(None) if where is None else where
    want = numpy_loss(z1[rows], z2[rows])
    gradients = np.zeros((2, *z1.shape))
    gradients[:, rows] = want.dz1, want.dz2
    return want, gradients


@every_mode
@pytest.mark.parametrize(
    "n, d, padded",
    thinned(SHAPES, keep=[(16, 96, True), (72, 24, False)]),
)
def test_every_mode_in_float64(x64, mode, n, d, padded):
    z1, z2 = draw(n, d)
    where = padding(n) if padded else None
    value, got = mode(z1, z2, where, loss_of())
    want, gradients = whole(z1, z2, where)
    np.testing.assert_allclose(value, want.total, rtol=1e-12)
    scale = np.abs(gradients).max()
    np.testing.assert_allclose(np.stack(got), gradients, rtol=0, atol=1e-12 * scale)


@every_mode
@pytest.mark.parametrize(
    "n, d, dtype",
    thinned(
        [(*s, t) for s in [(16, 96), (72, 24)] for t in (jnp.float32, jnp.bfloat16)],
        keep=[(16, 96, jnp.bfloat16)],
    ),
)
def test_every_mode_rounds_no_more_than_it_must(mode, n, d, dtype):
    z1, z2 = (np.asarray(jnp.asarray(z, dtype)) for z in draw(n, d))
    where = padding(n)
    value, got = mode(z1, z2, where, loss_of())
    assert all(dz.dtype == dtype for dz in got)
    wide = [z.astype(np.float64) for z in (z1, z2)]
    want, gradients = whole(*wide, where)
    bounds = rounding_bounds(*(z[where] for z in wide), 2.0**-24)
    assert abs(float(value) - want.total) <= bounds.total
    bound = np.zeros_like(gradients)
    bound[:, where] = bounds.dz1, bounds.dz2
    # A row has its gradient from one device, so that it is rounded once here too.
    error = np.stack([np.asarray(dz).astype(np.float64) for dz in got]) - gradients
    allowed = bound + stored(np.abs(gradients) + bound, jnp.finfo(dtype))
    assert np.all(np.abs(error) <= allowed), np.max(np.abs(error) / allowed)


@pytest.mark.parametrize(
    "sizes, transfer_dtype, left, right",
    [
        # Bytes an entry of the own rows, blocks against all rows: 64 to 128.
        ((4, 8), jnp.float32, "a", "b"),
        ((8, 4), jnp.float32, "b", "a"),
        # 40 to 64, where rows travel in half the bytes and products come back whole.
        ((4, 8), jnp.bfloat16, "a", "b"),
        # 20 to 16: of few devices all rows may as well come.
        ((2, 4), jnp.bfloat16, "", "ab"),
        # 32 to 32: a tie is for the block, which is smaller.
        ((2, 4), jnp.float32, "a", "b"),
        # 128 to 256, and 160 with one axis on the left.
        ((2, 2, 8), jnp.float32, "ab", "c"),
        ((8,), jnp.float32, "", "a"),
    ],
)
def test_the_split_that_moves_least(sizes, transfer_dtype, left, right):
    names, found = tuple("abc"[: len(sizes)]), []

    def look(_):
        found.append(_rows.split(names, transfer_dtype, jnp.float32))
        return 0

    for name in reversed(names):
        look = jax.vmap(look, axis_name=name)
    look(jnp.zeros(sizes))
    assert found[0] == (tuple(left), tuple(right))


def test_two_axes_on_the_left(x64):
    """The product with a block comes back along both, in the order of the rows."""
    z1, z2 = map(jnp.asarray, draw(32, 96))
    names = ("a", "b", "c")
    spread = partial(vj.vicreg_loss, lambd=25.0, mu=25.0, axis_name=names)
    for name in reversed(names):
        spread = jax.vmap(spread, axis_name=name)

    def value(z1, z2):
        rows = (z.reshape(2, 2, 8, 1, 96) for z in (z1, z2))
        return jnp.mean(spread(*rows))

    got = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(z1, z2)
    want = numpy_loss(z1, z2)
    np.testing.assert_allclose(got[0], want.total, rtol=1e-12)
    scale = 1e-12 * np.abs(want.dz1).max()
    np.testing.assert_allclose(got[1][0], want.dz1, rtol=0, atol=scale)
    np.testing.assert_allclose(got[1][1], want.dz2, rtol=0, atol=scale)


@pytest.mark.parametrize("n, d, block", [(72, 24, (24, 24)), (16, 96, (2, 16))])
@pytest.mark.parametrize("axes", [None, "data"])
def test_each_device_forms_its_part_of_the_smaller_product(n, d, block, axes):
    on = modes.mesh()
    step = partial(vj.vicreg_loss, lambd=25.0, mu=25.0, axis_name=axes)
    if axes:
        step = jax.shard_map(step, mesh=on, in_specs=P(axes), out_specs=P())
    rows = NamedSharding(on, P("data"))
    z = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=rows)
    text = jax.jit(step).lower(z, z).compile().as_text()
    found = {
        tuple(map(int, s.split(","))) for s in re.findall(r"f32\[(\d+,\d+)\]", text)
    }
    assert block in found
    assert found.isdisjoint({(n, n), (d, d)} - {block}), found


def test_twice_as_many_columns_as_rows_are_enough():
    assert uses_gram_matrix(32, 64) and not uses_gram_matrix(32, 63)


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("term", range(3))
def test_each_term_in_every_mode(x64, mode, term):
    z1, z2 = draw(24, 64)
    weights = tuple(np.eye(3)[term])
    value, got = mode(z1, z2, None, loss_of(weights))
    want = numpy_loss(z1, z2, weights)
    np.testing.assert_allclose(value, want.total, rtol=1e-12)
    np.testing.assert_allclose(got[0], want.dz1, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "axis_type", thinned([AxisType.Auto, AxisType.Explicit], keep=[AxisType.Explicit])
)
@pytest.mark.parametrize("spec", [P("data"), P("data", "model"), P(("data", "model"))])
@pytest.mark.parametrize("n, d", thinned([(16, 96), (72, 24)], keep=[(16, 96)]))
def test_gradients_are_sharded_as_the_inputs(axis_type, spec, n, d):
    on = modes.mesh((4, 2), ("data", "model"), axis_type)
    z1, z2, _ = modes.spread(on, spec, *np.float32(draw(n, d)), None)
    step = jax.grad(partial(vj.vicreg_loss, lambd=25, mu=25), argnums=(0, 1))
    with jax.set_mesh(on):
        steps = (jax.jit(step)(z1, z2), step(z1, z2))
    for dz in (*steps[0], *steps[1]):
        assert dz.sharding.is_equivalent_to(z1.sharding, 2)
        assert jax.typeof(dz).sharding == jax.typeof(z1).sharding


@pytest.mark.parametrize("n, d", thinned([(16, 96), (72, 24)], keep=[(16, 96)]))
@pytest.mark.parametrize("way", ["auto", "explicit", "shard_map", "shard_map no vma"])
def test_forward_mode_and_second_derivatives(x64, n, d, way):
    views, directions = draw(n, d), draw(n, d, seed=1)
    kind = AxisType.Explicit if way == "explicit" else AxisType.Auto
    on = modes.mesh(axis_type=kind)
    loss = partial(vj.vicreg_loss, lambd=25, mu=25)
    spreading = loss
    if way.startswith("shard_map"):
        spreading = jax.shard_map(
            partial(loss, axis_name="data"),
            mesh=on,
            in_specs=P("data"),
            out_specs=P(),
            check_vma=way == "shard_map",
        )

    def derivatives(f, z, dz):
        first = jax.jvp(f, z, dz)
        return first, jax.jvp(jax.grad(f, argnums=(0, 1)), z, dz)

    want = jax.jit(partial(derivatives, loss))(views, directions)
    rows = jax.device_put((views, directions), NamedSharding(on, P("data")))
    got = jax.jit(partial(derivatives, spreading))(*rows)
    chex.assert_trees_all_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "way", ["auto", "explicit", "explicit features", "shard_map", "two axes"]
)
def test_every_public_function(x64, way):
    z1, z2 = map(jnp.asarray, draw(16, 96))
    where = jnp.asarray(padding(16))
    axes = {"shard_map": "data", "two axes": ("data", "model")}.get(way)
    kind = AxisType.Explicit if way.startswith("explicit") else AxisType.Auto
    on = modes.mesh((4, 2), ("data", "model"), kind)
    spec = P("data", "model") if "features" in way else P(axes or "data")

    def everything(z1, z2, where, axis_name=axes):
        loss = vj.VICRegLoss(25.0, 25.0, axis_name=axis_name)
        return (
            loss(z1, z2, where=where),
            loss.terms(z1, z2, where=where),
            vj.invariance(z1, z2, where=where, axis_name=axis_name),
            vj.variance(z1, where=where, axis_name=axis_name),
            vj.covariance(z1, where=where, axis_name=axis_name),
            vj.diagnostics(z1, axis_name=axis_name),
            vj.diagnostics(z1, where=where, axis_name=axis_name),
        )

    spreading = everything
    if axes:
        spreading = jax.shard_map(everything, mesh=on, in_specs=P(axes), out_specs=P())
    rows = modes.spread(on, spec, z1, z2, where)
    got = jax.jit(spreading)(*rows)
    chex.assert_trees_all_close(got, everything(z1, z2, where, None), rtol=1e-10)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("n, d", thinned([(16, 96), (72, 24)], keep=[(72, 24)]))
def test_gradient_rule_with_a_term_of_each_device(x64, check_vma, n, d):
    """Inside the map: average the local term first, the gradients afterwards."""
    x, _ = draw(n, 7)
    w = jnp.asarray(np.random.default_rng(1).standard_normal((7, d)))

    def objective(w, x, axis_name=None):
        z = x @ w
        local = jnp.mean(jnp.sum(z**2, axis=1))
        if axis_name:
            local = jax.lax.pmean(local, axis_name)
        return vj.vicreg_loss(z, z + 1, 25.0, 25.0, axis_name=axis_name) + local

    def own(w, x):
        gradient = jax.grad(partial(objective, axis_name="data"))(w, x)
        return jax.lax.pmean(gradient, "data")

    shard_map = partial(
        jax.shard_map,
        mesh=modes.mesh(),
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    outside = jax.grad(shard_map(partial(objective, axis_name="data")))
    want = jax.grad(objective)(w, jnp.asarray(x))
    for got in (jax.jit(shard_map(own))(w, x), jax.jit(outside)(w, x)):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_rows_must_spread_evenly():
    """JAX's own words, which name the shape and the axis: pad, and say `where`."""
    z = jnp.ones((12, 4))
    loss = jax.shard_map(
        lambda a, b: loss_of()(a, b, axis_name="data"),
        mesh=modes.mesh(),
        in_specs=P("data"),
        out_specs=P(),
    )
    with pytest.raises(ValueError, match=r"evenly divisible"):
        loss(z, z)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Four devices each, rows brought by each process, compared with the oracle."""
    address = processes.free_address()
    commands = [["two_processes", address, str(process)] for process in range(2)]
    here = Path(__file__).parent
    path = f"{here}{os.pathsep}{here.parent}"
    processes.run(commands, tmp_path, seconds=180, PYTHONPATH=path)
