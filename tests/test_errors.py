"""Every refusal names the argument, what it must be and what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vicreg_jax as vj

pytestmark = pytest.mark.usefixtures("unchecked_signatures")
good = np.ones((4, 3), np.float32)
LOSSES = {
    "loss": lambda z1, z2, **options: vj.vicreg_loss(z1, z2, 25, 25, **options),
    "terms": vj.vicreg_terms,
    "class": lambda z1, z2, **options: vj.VICRegLoss(25, 25)(z1, z2, **options),
    "jitted": lambda z1, z2, **options: jax.jit(
        lambda a, b: vj.vicreg_loss(a, b, 25, 25, **options)
    )(z1, z2),
}
TWO_VIEWS = LOSSES | {"invariance": vj.invariance}
ONE_VIEW = [vj.variance, vj.covariance, vj.diagnostics]


@pytest.mark.parametrize("loss", TWO_VIEWS.values(), ids=TWO_VIEWS)
@pytest.mark.parametrize(
    "z1, z2, error, match",
    [
        (np.ones(3, "f4"), good, ValueError, r"`z1` must have rank 2.*\(3,\)"),
        (good, np.ones((4, 3, 1), "f4"), ValueError, r"`z2` must have rank 2.*4, 3, 1"),
        (good, good[:3], ValueError, r"`z2` must have the shape.*\(4, 3\), got \(3, 3"),
        (good[:1], good[:1], ValueError, r"`z1` must have at least 2 rows.*\(1, 3\)"),
        (good[:, :0], good, ValueError, r"`z1` must have at least 1 column.*\(4, 0\)"),
        (good.astype(int), good, TypeError, "`z1` must have a dtype of.*got int"),
        (good, good.astype("c8"), TypeError, "`z2` must have a dtype of.*complex64"),
    ],
)
def test_views(loss, z1, z2, error, match):
    with pytest.raises(error, match=match):
        loss(z1, z2)


@pytest.mark.parametrize("function", ONE_VIEW)
def test_one_view(function):
    with pytest.raises(ValueError, match="`z` must have rank 2"):
        function(np.ones(3, "f4"))
    with pytest.raises(TypeError, match="`z` must have a dtype of"):
        function(np.ones((3, 3), int))
    with pytest.raises(ValueError, match=r"`where` must have one entry.*\(4,\), got"):
        function(good, where=np.ones(3, bool))
    with pytest.raises(TypeError, match="`where` must have dtype bool.*float32"):
        function(good, where=np.ones(4, "f4"))


@pytest.mark.parametrize("loss", TWO_VIEWS.values(), ids=TWO_VIEWS)
def test_where(loss):
    with pytest.raises(ValueError, match=r"`where` must have one entry.*\(4,\), got"):
        loss(good, good, where=np.ones(3, bool))
    with pytest.raises(TypeError, match="`where` must have dtype bool.*float32"):
        loss(good, good, where=np.ones(4, "f4"))


@pytest.mark.parametrize(
    "value", [-1.0, -1, np.float32(-1), float("nan"), np.array(-1)]
)
def test_negative_settings(value):
    with pytest.raises(ValueError, match="`gamma` must be at least 0, got"):
        vj.vicreg_loss(good, good, 25, 25, gamma=value)
    with pytest.raises(ValueError, match="`eps` must be at least 0, got"):
        vj.vicreg_terms(good, good, eps=value)
    with pytest.raises(ValueError, match="`gamma` must be at least 0, got"):
        vj.variance(good, value)
    with pytest.raises(ValueError, match="`eps` must be at least 0, got"):
        vj.variance(good, eps=value)
    with pytest.raises(ValueError, match="`collapsed_std` must be at least 0, got"):
        vj.diagnostics(good, collapsed_std=value)


def test_the_least_that_is_accepted():
    """Two rows, one column, and settings of zero."""
    z = np.array([[0.0], [3.0]], np.float32)
    value = vj.vicreg_loss(z, z + 1, 1.0, 1.0, gamma=0, eps=0)
    assert value == 1  # the invariance: nothing is below 0, and one column is alone
    assert vj.diagnostics(z, collapsed_std=0).collapsed == 0


@pytest.mark.parametrize("name", ["lambd", "mu", "nu", "gamma"])
def test_weights(name):
    arguments = {"lambd": 25.0, "mu": 25.0}
    with pytest.raises(ValueError, match=rf"`{name}` must be a scalar, got shape \(2,"):
        vj.vicreg_loss(good, good, **arguments | {name: jnp.ones(2)})
    with pytest.raises(ValueError, match=rf"`{name}` must be a scalar, got shape \(1,"):
        vj.vicreg_loss(good, good, **arguments | {name: [25.0]})
    with pytest.raises(TypeError, match=f"`{name}` must be a real number, got dtype"):
        vj.vicreg_loss(good, good, **arguments | {name: jnp.array(1j)})


AXES = {
    "loss": lambda z, axis_name: LOSSES["loss"](z, z, axis_name=axis_name),
    "class": lambda z, axis_name: vj.VICRegLoss(25, 25, axis_name=axis_name)(z, z),
    "terms": lambda z, axis_name: vj.vicreg_terms(z, z, axis_name=axis_name),
    "invariance": lambda z, axis_name: vj.invariance(z, z, axis_name=axis_name),
    "variance": lambda z, axis_name: vj.variance(z, axis_name=axis_name),
    "covariance": lambda z, axis_name: vj.covariance(z, axis_name=axis_name),
    "diagnostics": lambda z, axis_name: vj.diagnostics(z, axis_name=axis_name),
}


@pytest.mark.parametrize("function", AXES.values(), ids=AXES)
class TestAxisName:
    def test_must_be_bound(self, function):
        with pytest.raises(
            ValueError, match="`axis_name` must name.*got 'data', which"
        ):
            function(good, "data")
        with pytest.raises(
            ValueError, match="`axis_name` must name.*got 'data', which"
        ):
            jax.jit(lambda z: function(z, "data"))(good)
        with pytest.raises(
            ValueError, match="'model', which is not bound. Under `jax.jit`"
        ):
            jax.vmap(lambda z: function(z, ("data", "model")), axis_name="data")(
                good[None]
            )

    def test_must_be_names(self, function):
        for wrong in (3, (), ("data", 1), ["data"]):
            with pytest.raises(TypeError, match="`axis_name` must be a string, a tup"):
                function(good, wrong)
        with pytest.raises(ValueError, match="`axis_name` must name every axis once"):
            function(good, ("data", "data"))

    def test_one_row_in_all(self, function):
        with pytest.raises(
            ValueError, match=r"at least 2 rows.*\(1, 3\) on 1 device\b"
        ):
            jax.vmap(lambda z: function(z, "data"), axis_name="data")(good[:1, None])

    def test_one_row_a_device_is_enough(self, function):
        got = jax.vmap(lambda z: function(z, "data"), axis_name="data")(good[:, None])
        assert not jnp.any(jnp.isnan(jnp.stack(jax.tree.leaves(got))))
