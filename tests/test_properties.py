"""What must hold of any embeddings: symmetries, signs, scales."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from reference import numpy_loss, torch_loss

import vicreg_jax as vj

# Few, since each compiles anew: the least, both forms of the product, and the border.
sizes = st.sampled_from([(2, 1), (3, 7), (9, 4), (5, 10), (6, 24)])
entries = st.floats(-100, 100, width=32)
pairs = sizes.flatmap(
    lambda size: st.tuples(*[hnp.arrays(np.float64, size, elements=entries)] * 2)
)
# No deadline: the first example of a size compiles.
few = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def loss(z1, z2, **options):
    return vj.vicreg_loss(z1, z2, 25, 25, **options)


def assert_close(got, want):
    # The off-diagonal energy is what is left of sums as large as the squares of the
    # variances; constant columns leave 0 of them.
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@few
@given(pairs)
def test_equals_both_references(views):
    got = loss(*views)
    assert_close(got, numpy_loss(*views).total)
    assert_close(got, torch_loss(*views).total)


gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))


@few
@given(pairs)
def test_gradients_equal_the_oracle(views):
    got = gradients(*map(jnp.array, views))
    want = numpy_loss(*views)
    scale = max(1.0, np.abs(want.dz1).max(), np.abs(want.dz2).max())
    np.testing.assert_allclose(got[0], want.dz1, atol=1e-9 * scale)
    np.testing.assert_allclose(got[1], want.dz2, atol=1e-9 * scale)


@few
@given(pairs, st.randoms(use_true_random=False))
def test_order_does_not_matter(views, random):
    n, d = views[0].shape
    rows, columns = list(range(n)), list(range(d))
    random.shuffle(rows)
    random.shuffle(columns)
    want = loss(*views)
    assert_close(loss(*views[::-1]), want)
    assert_close(loss(*(z[rows] for z in views)), want)
    assert_close(loss(*(z[:, columns] for z in views)), want)


@few
@given(pairs, entries)
def test_shifting_both_views_does_not_matter(views, shift):
    assert_close(loss(*(z + shift for z in views)), loss(*views))


@few
@given(pairs)
def test_terms_are_never_negative_nor_nan(views):
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        terms = vj.vicreg_terms(*(jnp.asarray(z, dtype) for z in views))
        assert all(term >= 0 and jnp.isfinite(term) for term in terms)


@few
@given(pairs, st.data())
def test_where_is_taking_the_rows(views, data):
    n = len(views[0])
    mask = data.draw(hnp.arrays(bool, n).filter(lambda m: m.sum() >= 2))
    want = loss(*(z[mask] for z in views))
    assert_close(loss(*views, where=mask), want)
