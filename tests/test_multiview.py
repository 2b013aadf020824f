"""More than two views, against a double loop over the pairs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convention_cases import CASES as CONVENTIONS
from embeddings import draw
from grids import thinned
from reference import WEIGHTS, numpy_loss

import vicreg_jax as vj
from parity import modes

# Views three and four, as mixtures of the two views that a mode spreads over devices.
MIXTURES = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, -0.5], [-0.3, 0.8]])
QUICK_MODES = [
    "jit, auto mesh",
    "jit, explicit mesh, features over model",
    "shard_map, inside, no vma",
    "shard_map, two row axes",
    "pmap",
    "vmap, two row axes",
]


def several(count, n, d):
    """Related views: pairs of `draw`, each from a seed of its own."""
    pairs = [draw(n, d, seed=seed) for seed in range((count + 1) // 2)]
    return [z for pair in pairs for z in pair][:count]


def double_loop(views, weights=WEIGHTS, global_views=None):
    """Value and gradients, pair by pair, with the weights of `vicreg_loss`."""
    lambd, mu, nu = weights
    many = len(views)
    leading = many if global_views is None else global_views
    pairs = [(i, j) for i in range(leading) for j in range(many) if j != i]
    total, gradients = 0.0, [np.zeros_like(z) for z in views]
    for i, j in pairs:
        one = numpy_loss(views[i], views[j], (lambd / len(pairs), 0.0, 0.0))
        total += one.total
        gradients[i] += one.dz1
        gradients[j] += one.dz2
    for v, z in enumerate(views):
        # Of a view beside itself both sides are the same: one is half of the sum.
        one = numpy_loss(z, z, (0.0, 2 * mu / many, 2 * nu / many))
        total += one.total / 2
        gradients[v] += one.dz1
    return total, gradients


@pytest.mark.parametrize("n, d", [(6, 24), (24, 6)])
@pytest.mark.parametrize(
    "count, leading",
    thinned(
        [(v, g) for v in (2, 3, 4, 8) for g in (None, 1, 2, 3) if (g or 0) <= v],
        keep=[(3, None), (4, 2), (3, 1)],
    ),
)
def test_equals_the_double_loop(x64, n, d, count, leading):
    views = several(count, n, d)
    want, gradients = double_loop(views, global_views=leading)

    def loss(views):
        return vj.multiview_loss(views, *WEIGHTS, global_views=leading)

    for given in (jnp.stack(views), [jnp.asarray(z) for z in views]):
        value, got = jax.jit(jax.value_and_grad(loss))(given)
        np.testing.assert_allclose(value, want, rtol=1e-13)
        np.testing.assert_allclose(np.stack(got), gradients, atol=1e-13)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_two_views_are_the_loss_exactly(name):
    loss, _ = CONVENTIONS[name]
    z1, z2 = map(jnp.float32, draw(16, 6))
    want = jax.value_and_grad(loss, argnums=(0, 1))(z1, z2)
    got = jax.value_and_grad(loss.multiview)([z1, z2])
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loss.multiview(jnp.stack([z1, z2])) == want[0]
    terms = zip(loss.terms(z1, z2), loss.multiview_terms([z1, z2]), strict=True)
    assert all(one == other for one, other in terms)


def test_the_class_passes_on_its_settings(x64):
    """And the mask; only the weights and gamma may be traced."""
    views, where = several(3, 12, 5), np.arange(12) < 9
    loss = vj.VICRegLoss(2.0, 3.0, 5.0, 0.7, global_views=1, eps=1e-2)
    options = dict(global_views=1, where=where, eps=1e-2)
    want = vj.multiview_terms(views, 0.7, **options)
    np.testing.assert_array_equal(loss.multiview_terms(views, where=where), want)
    total = vj.multiview_loss(views, 2.0, 3.0, 5.0, 0.7, **options)
    assert loss.multiview(views, where=where) == total
    assert jax.tree.leaves(loss) == [2.0, 3.0, 5.0, 0.7]


def test_vicregl_averages_over_views(x64):
    """Its own formula: the mean over pairs, and the means over views."""
    views = several(4, 12, 5)
    pairs = [(i, j) for i in (0, 1) for j in range(4) if j != i]
    s = np.mean([np.mean((views[i] - views[j]) ** 2) for i, j in pairs])
    v, c = (np.mean([numpy_loss(z, z)[term] / 2 for z in views]) for term in (1, 2))
    loss = vj.conventions.vicregl(inv_coeff=3.0, var_coeff=5.0, cov_coeff=7.0)
    np.testing.assert_allclose(loss.multiview(views), 3 * s + 5 * v + 7 * c)
    every = replace(loss, global_views=None)
    assert abs(every.multiview(views) - loss.multiview(views)) > 1e-3


def test_pairs_cost_as_much_as_views():
    """Twice the views cost twice the work, where pairs would cost four times."""

    def flops(count):
        z = jax.ShapeDtypeStruct((count, 64, 32), jnp.float32)
        step = jax.grad(lambda z: vj.multiview_terms(z).invariance)
        costs = jax.jit(step).lower(z).compile().cost_analysis()
        return costs["flops"]

    assert flops(16) <= 2.3 * flops(8)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("leading", [None, 2])
def test_nothing_cancels_far_from_zero(offset, leading):
    """Views that differ by far less than they are from zero."""
    rng = np.random.default_rng(0)
    shared = offset + rng.standard_normal((16, 8))
    views = [
        np.float32(shared + 0.01 * rng.standard_normal(shared.shape)) for _ in range(4)
    ]

    def term(views):
        return vj.multiview_terms(views, global_views=leading).invariance

    value, got = jax.value_and_grad(term)([jnp.asarray(z) for z in views])
    wide = [z.astype(np.float64) for z in views]
    want, gradients = double_loop(wide, (1.0, 0.0, 0.0), leading)
    # A sum of so many squares, by Higham and Mary's bound.
    rounding = (8 * np.sqrt(shared.size) + 8) * 2.0**-24
    np.testing.assert_allclose(value, want, rtol=rounding)
    scale = np.abs(gradients).max()
    np.testing.assert_allclose(np.stack(got), gradients, atol=2e-6 * scale)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_computes_in_float32(dtype):
    views = [jnp.asarray(30 * z, dtype) for z in several(3, 24, 8)]
    value, got = jax.value_and_grad(lambda v: vj.multiview_loss(v, *WEIGHTS))(views)
    wide = [np.asarray(z).astype(np.float64) for z in views]
    want, gradients = double_loop(wide)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for dz, wanted in zip(got, gradients, strict=True):
        assert dz.dtype == dtype
        rounding = 1.01 * float(jnp.finfo(dtype).eps) / 2
        error = np.abs(np.asarray(dz).astype(np.float64) - wanted)
        assert np.all(error <= rounding * np.abs(wanted) + 1e-5 * np.abs(wanted).max())


def test_transforms_and_traced_weights(x64):
    views = jnp.stack(several(3, 10, 4))
    where = np.arange(10) < 7
    want, _ = double_loop([z[where] for z in np.asarray(views)], (3.0, 5.0, 7.0))
    padded = jnp.where(where[:, None], views, jnp.nan)

    def value(loss, views):
        return loss.multiview(views, where=where)

    loss = vj.VICRegLoss(*map(jnp.asarray, (3.0, 5.0, 7.0)))
    np.testing.assert_allclose(jax.jit(value)(loss, padded), want)
    batched = jax.jit(jax.vmap(value, in_axes=(None, 0)))
    np.testing.assert_allclose(batched(loss, jnp.stack([padded] * 2)), [want] * 2)
    gradient, dz = jax.jit(jax.grad(value, argnums=(0, 1)))(loss, padded)
    np.testing.assert_allclose(gradient.lambd, loss.multiview_terms(views[:, :7])[0])
    np.testing.assert_array_equal(dz[:, 7:], 0)


def test_mixed_dtypes():
    z = [jnp.asarray(z, jnp.bfloat16) for z in several(3, 10, 4)]
    mixed = [z[0].astype(jnp.float32), *z[1:]]
    got = jax.eval_shape(jax.grad(lambda v: vj.multiview_loss(v, *WEIGHTS)), mixed)
    assert [dz.dtype for dz in got] == [v.dtype for v in mixed]


@pytest.mark.parametrize(
    "n, d, padded",
    thinned([(16, 96, True), (72, 24, False)], keep=[(16, 96, True)]),
)
@pytest.mark.parametrize("name", thinned(modes.MODES, keep=QUICK_MODES))
def test_every_mode(x64, name, n, d, padded):
    z = draw(n, d)
    where = np.arange(n) % 8 != 3 if padded else None
    rows = slice(None) if where is None else where

    def loss(z1, z2, *, where=None, axis_name=None):
        views = [a * z1 + b * z2 for a, b in MIXTURES]
        options = {"global_views": 2, "where": where, "axis_name": axis_name}
        return vj.multiview_loss(views, *WEIGHTS, **options)

    value, got = modes.MODES[name](*z, where, loss)
    mixed = [a * z[0][rows] + b * z[1][rows] for a, b in MIXTURES]
    want, of_views = double_loop(mixed, global_views=2)
    gradients = np.zeros((2, n, d))
    gradients[:, rows] = np.tensordot(MIXTURES.T, of_views, 1)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    scale = np.abs(gradients).max()
    np.testing.assert_allclose(np.stack(got), gradients, rtol=0, atol=1e-12 * scale)


def test_two_views_by_default_are_the_terms():
    """With the defaults of each, and for users who switch off rank promotion."""
    views = np.float32(draw(12, 5))
    with jax.numpy_rank_promotion("raise"):
        found = vj.multiview_terms(views)
        np.testing.assert_allclose(found, vj.vicreg_terms(*views), rtol=1e-6)
        vj.multiview_terms(np.float32(several(3, 12, 5)), global_views=2)


@pytest.mark.usefixtures("unchecked_signatures")
@pytest.mark.parametrize("name", ["lambd", "mu", "nu"])
def test_weights_must_be_scalars(name):
    weights = {"lambd": 25.0, "mu": 25.0} | {name: np.ones(2)}
    with pytest.raises(ValueError, match=f"`{name}` must be a scalar"):
        vj.multiview_loss(np.ones((3, 4, 3)), **weights)


@pytest.mark.usefixtures("unchecked_signatures")
@pytest.mark.parametrize(
    "views, options, error, match",
    [
        (
            [np.ones((4, 3))],
            {},
            ValueError,
            "`views` must hold at least 2 views",
        ),
        (np.ones((4, 3)), {}, ValueError, r"`views` must have rank 3.*\(4, 3\)"),
        (3.0, {}, TypeError, "`views` must be an array or a sequence of arrays"),
        (
            [np.ones((4, 3)), np.ones((5, 3))],
            {},
            ValueError,
            r"`views\[1\]` must have the shape of `views\[0\]`.*\(4, 3\), got \(5, 3\)",
        ),
        (
            [np.ones((4, 3)), np.ones((4, 3), int)],
            {},
            TypeError,
            r"`views\[1\]` must have a dtype of",
        ),
        (
            np.ones((3, 4, 3)),
            {"global_views": 4},
            ValueError,
            "`global_views` must be None or from 1 to the number of views, 3, got 4",
        ),
        (np.ones((3, 4, 3)), {"global_views": 0}, ValueError, "`global_views` must"),
        (np.ones((3, 4, 3)), {"global_views": True}, ValueError, "`global_views` must"),
        (np.ones((3, 4, 3)), {"gamma": -1.0}, ValueError, "`gamma` must be at"),
        (
            np.ones((3, 4, 3)),
            {"axis_name": "data"},
            ValueError,
            "`axis_name` must name",
        ),
        (
            np.ones((3, 4, 3)),
            {"where": np.ones(3, bool)},
            ValueError,
            r"`where` must have one entry for each row, shape \(4,\)",
        ),
    ],
)
def test_errors_name_the_argument(views, options, error, match):
    def loss(views, lambd=25.0, mu=25.0, **options):
        return vj.multiview_loss(views, lambd, mu, **options)

    for function in (loss, vj.multiview_terms):
        with pytest.raises(error, match=match):
            function(views, **options)
