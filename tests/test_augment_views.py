"""What all views have in common: the protocol, and the checks of their arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.mirrored import MirroredViews
from vicreg_jax.augment import DigitViews, ImageViews, Views

KINDS = [DigitViews(size=12), ImageViews(size=12)]


@pytest.mark.parametrize("views", [*KINDS, MirroredViews(12)])
def test_the_protocol(views):
    assert isinstance(views, Views) and issubclass(type(views), Views)
    images = jax.random.bits(jax.random.key(0), (2, 12, 12, 1), "uint8")
    aspect = jnp.ones(2)
    pair = jax.jit(views.pair)(jax.random.key(1), images, aspect)
    plain = jax.jit(views.plain)(images, aspect)
    for view in (*pair, plain):
        assert view.shape == (2, views.size, views.size, 1)
        assert view.dtype == jnp.float32
    assert jnp.any(pair[0] != pair[1])


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_sharded_images_give_sharded_views(axis_type):
    """Of digits; `test_augment` has those of photographs."""
    kind = getattr(jax.sharding.AxisType, axis_type)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    images = jax.random.bits(jax.random.key(0), (8, 12, 12, 1), "uint8")
    draw = jax.jit(DigitViews(size=16).pair)
    expected = draw(jax.random.key(1), images)
    with jax.set_mesh(mesh):
        seen = draw(jax.random.key(1), jax.device_put(images, rows))
    for a, b in zip(seen, expected, strict=True):
        assert a.sharding.spec[0] == "data"
        np.testing.assert_allclose(a, b, atol=2e-5)


class PairsOnly:
    size = 8

    def pair(self, key, images, aspect): ...


@pytest.mark.parametrize("other", [PairsOnly(), 8, None])
def test_not_the_protocol(other):
    assert not isinstance(other, Views) and not issubclass(type(other), Views)


@pytest.mark.parametrize("views", KINDS)
def test_uint8_and_floats_give_the_same_views(views):
    images = jax.random.bits(jax.random.key(0), (2, 12, 12, 3), "uint8")
    key = jax.random.key(1)
    floats = images.astype(jnp.float32) / 255
    np.testing.assert_array_equal(views(key, images), views(key, floats))
    np.testing.assert_array_equal(views.plain(images), views.plain(floats))


@pytest.mark.usefixtures("unchecked_signatures")
@pytest.mark.parametrize("views", KINDS)
def test_arguments_are_checked(views):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"`images` must .* got \(2, 4, 4, 2\)"):
        views(key, jnp.zeros((2, 4, 4, 2)))
    with pytest.raises(ValueError, match=r"`images` must .* got \(4, 4, 3\)"):
        views(key, jnp.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="`images` must be uint8 or float, got int32"):
        views.plain(jnp.zeros((2, 4, 4, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"`aspect` must .* got shape \(3,\)"):
        views.pair(key, jnp.zeros((2, 4, 4, 3)), jnp.ones(3))
