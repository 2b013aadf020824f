"""Diagnostics on embeddings whose health is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from reference import numpy_loss

import vicreg_jax as vj


def normal(n, d):
    return jnp.array(np.random.default_rng(0).standard_normal((n, d)))


@pytest.mark.parametrize("n, d", [(64, 8), (8, 64), (32, 32)])
def test_against_numpy(x64, n, d):
    z = normal(n, d) * jnp.linspace(0.01, 2, d)
    got = jax.jit(vj.diagnostics)(z)
    std = np.std(z, axis=0, ddof=1)
    np.testing.assert_allclose(got.std_mean, std.mean())
    np.testing.assert_allclose(got.std_min, std.min())
    np.testing.assert_allclose(got.collapsed, np.mean(std < 0.1))
    np.testing.assert_allclose(got.covariance, numpy_loss(z, z).covariance / 2)
    shares = np.linalg.svd(z, compute_uv=False)
    shares = shares / shares.sum() + 1e-7
    np.testing.assert_allclose(
        got.effective_rank, np.exp(-np.sum(shares * np.log(shares)))
    )
    assert got.covariance >= got.covariance_floor
    assert n < d or got.covariance_floor == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z = normal(8, 64).astype(dtype)
    got, want = vj.diagnostics(z), vj.diagnostics(z.astype(jnp.float32))
    assert {a.dtype for a in got} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(got, want)


def test_a_std_at_the_limit_has_not_collapsed():
    z = jnp.array([[-1.0], [0.0], [1.0]])  # of standard deviation 1, exactly
    assert vj.diagnostics(z, collapsed_std=1.0).collapsed == 0
    # As an array of any dtype the limit does the same.
    assert vj.diagnostics(z, collapsed_std=jnp.bfloat16(1)).collapsed == 0
    assert vj.diagnostics(z, collapsed_std=jnp.int32(2)).collapsed == 1


@pytest.mark.parametrize("n, d, floor", [(256, 8192, 31.1), (64, 1024, 15.3)])
def test_floor_at_unit_variance(n, d, floor):
    z = normal(n, d).astype(jnp.float32)
    z = (z - z.mean(0)) / z.std(0, ddof=1)
    # The singular values, which this program leaves out, would take seconds.
    got = jax.jit(lambda z: vj.diagnostics(z).covariance_floor)(z)
    np.testing.assert_allclose(got, d / (n - 1) - 1, rtol=1e-4)
    np.testing.assert_allclose(got, floor, atol=0.06)


def test_the_floor_is_reached(x64):
    """Orthogonal rows of equal length, centered, spread as evenly as rank allows."""
    n, d = 9, 32
    u, _, vt = np.linalg.svd(normal(n, d) - normal(n, d).mean(0), full_matrices=False)
    got = vj.diagnostics(jnp.array(u[:, : n - 1] @ vt[: n - 1]))
    np.testing.assert_allclose(got.covariance, got.covariance_floor, rtol=1e-10)


def test_collapse_shows():
    z = jnp.ones((16, 8)) * jnp.arange(1, 9, dtype=jnp.float32)
    got = vj.diagnostics(z)
    assert got.collapsed == 1 and got.std_mean == 0
    assert got.covariance_condition == 1
    np.testing.assert_allclose(got.effective_rank, 1, rtol=1e-3)
    zeros = vj.diagnostics(jnp.zeros((16, 8)))
    np.testing.assert_allclose(zeros.effective_rank, 1, rtol=1e-3)
    assert vj.diagnostics(z.at[:, 0].set(jnp.arange(16.0))).collapsed == 7 / 8


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_is_known_of_less_than_two_rows(rows):
    got = vj.diagnostics(jnp.ones((8, 4)), where=jnp.arange(8) < rows)
    got = got._asdict()
    del got["effective_rank"]
    assert all(map(jnp.isnan, got.values())), got


class WideColumn:
    """Embeddings with one column `wide` times as wide as the others, in float32."""

    def __init__(self, wide, column=3):
        z = normal(32, 256).at[:, column].multiply(wide).astype(jnp.float32)
        self.found = vj.diagnostics(z)
        exact = numpy_loss(z, z, weights=(0, 0, 1))
        self.error = abs(2 * float(self.found.covariance) / exact.covariance - 1)
        gradient = np.asarray(jax.grad(vj.covariance)(z))
        self.gradient_error = np.linalg.norm(gradient - exact.dz1)
        self.gradient_error /= np.linalg.norm(exact.dz1)
        squares = np.sum(np.var(np.asarray(z, np.float64), axis=0, ddof=1) ** 2)
        self.condition = 1 + squares / (256 * exact.covariance / 2)


@pytest.mark.parametrize("wide", [1.0, 100.0, 1000.0])
def test_condition_foretells_the_error(wide):
    """One column that outweighs all others costs as many digits as it says."""
    column = WideColumn(wide)
    condition = float(column.found.covariance_condition)
    # Of the sum of all squares, a few roundings of float32 for each of its sums.
    assert column.error < 8 * rounding.UNIT * 32 * condition
    # |K| is sqrt(condition) |C_off|, so K X is that much larger than X C_off.
    assert column.gradient_error < rounding.of_sum(32) * condition**0.5
    np.testing.assert_allclose(condition, column.condition, rtol=0.1)
    assert (condition > 100) == (wide >= 100)
    assert vj.diagnostics(normal(256, 32)).covariance_condition == 1


def test_a_condition_of_millions_leaves_digits_to_the_gradient_alone():
    """A column 10,000 times as wide: the term is wrong, and its condition says so."""
    columns = [WideColumn(1e4, column) for column in range(4)]
    for column in columns:
        assert column.condition > 1e6 and column.found.covariance_condition > 1e6
        assert column.gradient_error < rounding.of_sum(32) * column.condition**0.5
    assert max(column.error for column in columns) > 0.01


def test_condition_is_the_share_that_is_subtracted(x64):
    z = normal(8, 64)
    squares = np.cov(np.asarray(z, np.float64), rowvar=False) ** 2
    want = squares.sum() / (squares.sum() - np.trace(squares))
    got = vj.diagnostics(jnp.asarray(z, jnp.float64)).covariance_condition
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_condition_does_not_depend_on_the_scale(x64):
    want = vj.diagnostics(normal(8, 64)).covariance_condition
    got = vj.diagnostics(normal(8, 64) * 1e-3).covariance_condition
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("shape", [(8, 64), (64, 8)])
def test_collapse_leaves_the_condition_at_one(shape):
    assert vj.diagnostics(jnp.zeros(shape)).covariance_condition == 1


def test_padding_changes_nothing(x64):
    z = normal(12, 30)
    wide = jnp.concatenate([z, jnp.full((4, 30), jnp.nan)])
    got = vj.diagnostics(wide, where=jnp.arange(16) < 12)
    # Which product serves, and so the condition, goes by all rows.
    np.testing.assert_allclose(got[:-1], vj.diagnostics(z)[:-1], rtol=1e-5)
