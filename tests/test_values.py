"""Values and gradients against PyTorch and a float64 oracle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embeddings import draw
from grids import thinned
from reference import WEIGHTS, numpy_loss, rounding_bounds, stored, torch_loss

import vicreg_jax as vj

BATCHES = (2, 3, 5, 8, 64, 257)
DIMS = (1, 2, 3, 7, 64, 257)
# The smallest, one of each form of the products, and the border between them.
EVERY_RUN = [(2, 1), (2, 64), (3, 7), (5, 2), (64, 64), (64, 257), (257, 64)]
pytestmark = pytest.mark.usefixtures("optimized")
shapes = pytest.mark.parametrize(
    "n, d", thinned([(n, d) for n in BATCHES for d in DIMS], keep=EVERY_RUN)
)


@jax.jit
def ours(z1, z2, weights=WEIGHTS, gamma=1.0, **options):
    """Terms, total and gradients, as one tuple like the references'."""
    terms = vj.vicreg_terms(z1, z2, gamma, **options)
    total, gradients = jax.value_and_grad(vj.vicreg_loss, argnums=(0, 1))(
        z1, z2, *weights, gamma, **options
    )
    return (*terms, total, *gradients)


def assert_within_rounding(z1, z2, dtype, weights=WEIGHTS, gamma=1.0):
    """Holds our result in `dtype` to what rounding alone can explain."""
    z1, z2 = (jnp.asarray(z, dtype) for z in (z1, z2))
    seen1, seen2 = (np.asarray(z).astype(np.float64) for z in (z1, z2))
    unit = 2.0**-53 if dtype == jnp.float64 else 2.0**-24
    bounds = rounding_bounds(seen1, seen2, unit, weights, gamma)
    exact = numpy_loss(seen1, seen2, weights, gamma)
    *values, dz1, dz2 = ours(z1, z2, weights, gamma)
    for value, want, bound, name in zip(
        values, exact[:4], bounds[:4], bounds._fields, strict=False
    ):
        assert abs(float(value) - want) <= bound, name
    assert dz1.dtype == dz2.dtype == dtype
    for name, got in {"dz1": dz1, "dz2": dz2}.items():
        want, bound = getattr(exact, name), getattr(bounds, name)
        error = np.abs(np.asarray(got).astype(np.float64) - want)
        allowed = bound + stored(np.abs(want) + bound, jnp.finfo(dtype))
        assert np.all(error <= allowed), (name, np.max(error / allowed))


@shapes
def test_float64_equals_both_references(x64, n, d):
    z1, z2 = draw(n, d)
    found = ours(jnp.array(z1), jnp.array(z2))
    for reference in (numpy_loss, torch_loss):  # the latter may skip
        for got, wanted in zip(found, reference(z1, z2), strict=True):
            assert got.dtype == jnp.float64
            scale = np.max(np.abs(wanted))
            assert np.max(np.abs(got - wanted)) <= 1e-12 * scale


@shapes
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rounds_no_more_than_it_must(n, d, dtype):
    assert_within_rounding(*draw(n, d), dtype)


@pytest.mark.parametrize(
    "n, d",
    thinned([(8, 64), (64, 8), (64, 65), (64, 128)], keep=[(64, 8), (64, 128)]),
)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float64])
def test_rounds_no_more_than_it_must_in_other_dtypes(x64, n, d, dtype):
    assert_within_rounding(*draw(n, d), dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("share", [0.75, 0.9])
def test_gradients_are_added_before_they_are_rounded(dtype, share):
    """The hinge takes back `share` and a tenth of what the invariance asks for."""
    x = np.random.default_rng(0).standard_normal((64, 24))
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    z1, z2 = 0.9 * x, 0.9 * x * (1 - share * 0.5 * (64 / 63) / 0.81)
    assert_within_rounding(z1, z2, dtype, weights=(25.0, 25.0, 0.1))


def test_sizes_whose_product_needs_more_than_32_bits():
    """Nothing is computed: no machine here would hold it."""
    z = jax.ShapeDtypeStruct((2**18, 2**13), jnp.float32)
    rows = jax.ShapeDtypeStruct((2**31 + 8, 4), jnp.bfloat16)
    columns = jax.ShapeDtypeStruct((4, 2**31 + 8), jnp.float32)
    for view in (z, rows, columns):
        mask = jax.ShapeDtypeStruct(view.shape[:1], jnp.bool_)
        for where in (None, mask):
            step = jax.value_and_grad(partial(vj.vicreg_loss, lambd=25, mu=25))
            value, gradient = jax.eval_shape(step, view, view, where=where)
            assert (value.shape, gradient.shape) == ((), view.shape)
    entries = str(jax.make_jaxpr(vj.invariance)(z, z))
    assert f"{2.0**31:.1f}" in entries or "2147483648.0" in entries


@pytest.mark.parametrize(
    "n, d", thinned([(64, 7), (64, 64), (64, 257)], keep=[(64, 7), (64, 257)])
)
class TestHardInputs:
    """Inputs on which a careless implementation fails, in every regime."""

    def test_collapsed(self, n, d):
        z = jnp.ones((n, d)) * jnp.arange(d, dtype=jnp.float32)
        terms = vj.vicreg_terms(z, z)
        np.testing.assert_allclose(terms.variance, 2 * 0.99, rtol=1e-6)
        assert terms.invariance == terms.covariance == 0
        gradient = jax.grad(vj.vicreg_loss)(z, z, 25, 25)
        np.testing.assert_array_equal(gradient, 0)

    def test_nearly_collapsed(self, n, d):
        z1, z2 = draw(n, d, spread=(1e-5, 1e-4), offset=0.0)
        assert_within_rounding(z1, z2, jnp.float32)

    def test_same_view_twice(self, n, d):
        z, _ = draw(n, d)
        assert_within_rounding(z, z, jnp.float32)
        assert ours(jnp.array(z, jnp.float32), jnp.array(z, jnp.float32))[0] == 0

    def test_scales_of_many_orders(self, n, d):
        z1, z2 = draw(n, d)
        scale = np.logspace(-4, 4, d)
        assert_within_rounding(z1 * scale, z2 * scale, jnp.float32)

    def test_large_offset_keeps_three_digits(self, n, d):
        rng = np.random.default_rng(0)
        z1, z2 = rng.standard_normal((2, n, d)) + 1e4
        got = vj.vicreg_terms(
            jnp.array(z1, jnp.float32), jnp.array(z2, jnp.float32), gamma=2.0
        )
        want = numpy_loss(z1, z2, gamma=2.0)[:3]
        np.testing.assert_allclose(got, want, rtol=1e-3)
        assert_within_rounding(z1, z2, jnp.float32, gamma=2.0)

    def test_other_gamma(self, n, d):
        assert_within_rounding(*draw(n, d), jnp.float32, gamma=0.7)
        assert_within_rounding(*draw(n, d), jnp.float32, (1.0, 2.0, 3.0), gamma=4.0)

    def test_float16_at_std_100(self, n, d):
        z1, z2 = draw(n, d, spread=(100, 100))
        assert_within_rounding(z1, z2, jnp.float16, (1e-4, 1.0, 1e-8))

    def test_whitened(self, n, d):
        """Where training is headed: what is left off the diagonal is least."""
        rng = np.random.default_rng(1)
        x = rng.standard_normal((n, d))
        u, _, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
        rank = min(n - 1, d)
        z = u[:, :rank] @ vt[:rank] * np.sqrt(n - 1)
        assert_within_rounding(z, z, jnp.float32)


def test_gradient_is_zero_at_the_kink(x64):
    # Variance 3/4 and eps 1/4: the standard deviation is gamma to the last bit.
    z = jnp.array([[0.75], [-0.75], [0.75], [-0.75]])
    gradient = jax.grad(vj.variance)(z, 1.0, eps=0.25)
    np.testing.assert_array_equal(gradient, 0)
    want = torch_loss(z, z, (0.0, 1.0, 0.0), eps=0.25)
    np.testing.assert_array_equal(want.dz1, 0)
    assert jnp.all(jax.grad(vj.variance)(z, 1.0 + 1e-9, eps=0.25) != 0)


@pytest.mark.parametrize("n, d", [(5, 3), (3, 7), (2, 1)])
def test_each_term_alone(x64, n, d):
    z1, z2 = map(jnp.array, draw(n, d))
    want = numpy_loss(z1, z2)
    np.testing.assert_allclose(vj.invariance(z1, z2), want.invariance, rtol=1e-12)
    variances = vj.variance(z1) + vj.variance(z2)
    np.testing.assert_allclose(variances, want.variance, rtol=1e-12)
    covariances = vj.covariance(z1) + vj.covariance(z2)
    np.testing.assert_allclose(covariances, want.covariance, rtol=1e-12, atol=1e-300)
    for weights in np.eye(3):
        terms = {
            0: lambda z: vj.invariance(z, z2),
            1: vj.variance,
            2: vj.covariance,
        }
        gradient = jax.grad(terms[int(np.argmax(weights))])(z1)
        wanted = numpy_loss(z1, z2, weights).dz1
        np.testing.assert_allclose(gradient, wanted, rtol=1e-11, atol=1e-15)


def test_single_column_has_no_covariance():
    z = jnp.array([[1.0], [2.0], [4.0]])
    assert vj.covariance(z) == 0
    assert jnp.all(jax.grad(vj.covariance)(z) == 0)


@pytest.mark.parametrize(
    "n, d", thinned([(20, 6), (6, 20), (4, 64)], keep=[(20, 6), (4, 64)])
)
class TestWhere:
    def padded(self, n, d, fill):
        z1, z2 = draw(n, d)
        where = np.random.default_rng(0).permutation(n + 5) < n
        views = []
        for z in (z1, z2):
            wide = np.full((n + 5, d), fill)
            wide[where] = z
            views.append(jnp.array(wide))
        return jnp.array(z1), jnp.array(z2), *views, jnp.array(where)

    @pytest.mark.parametrize("fill", [0.0, 1e6, np.nan, np.inf])
    def test_padding_changes_nothing(self, x64, n, d, fill):
        z1, z2, wide1, wide2, where = self.padded(n, d, fill)
        *want, dz1, dz2 = ours(z1, z2)
        *got, wide_dz1, wide_dz2 = ours(wide1, wide2, where=where)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        np.testing.assert_allclose(wide_dz1[where], dz1, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(wide_dz2[where], dz2, rtol=1e-9, atol=1e-14)
        assert jnp.all(wide_dz1[~where] == 0) and jnp.all(wide_dz2[~where] == 0)

    def test_each_term(self, x64, n, d):
        z1, z2, wide1, wide2, where = self.padded(n, d, np.nan)
        got = [
            vj.invariance(wide1, wide2, where=where),
            vj.variance(wide1, where=where),
            vj.covariance(wide1, where=where),
        ]
        want = [vj.invariance(z1, z2), vj.variance(z1), vj.covariance(z1)]
        np.testing.assert_allclose(got, want, rtol=1e-12)

    @pytest.mark.parametrize("rows", [0, 1])
    def test_nan_with_less_than_two_rows(self, n, d, rows):
        z, where = jnp.ones((n, d)), jnp.arange(n) < rows
        assert jnp.isnan(vj.vicreg_loss(z, z, 25, 25, where=where))
        assert jnp.isnan(vj.variance(z, where=where))
        assert jnp.isnan(vj.covariance(z, where=where))
