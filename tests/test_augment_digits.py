"""Views of handwritten digits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from vicreg_jax.augment import DigitViews

STILL = dict(rotation=0.0, scale=0.0, shear=0.0, shift=0.0, bend=0.0, pen=0.0)


class TestViews:
    images = jnp.zeros((3, 12, 12, 1)).at[:, 4:8, 5:7].set(1.0)

    def test_no_distortion_is_the_image(self):
        still = DigitViews(12, **STILL)
        seen = jax.jit(still)(jax.random.key(0), self.images)
        np.testing.assert_allclose(seen, self.images, atol=1e-5)
        np.testing.assert_array_equal(still.plain(self.images), self.images)

    def test_each_image_gets_its_own(self):
        draw = jax.jit(DigitViews(12))
        first, other = (
            np.asarray(draw(jax.random.key(k), self.images)) for k in (0, 1)
        )
        assert first.shape == self.images.shape
        assert 0 <= first.min() and first.max() <= 1 + 1e-6
        assert np.any(first[0] != first[1])
        assert np.any(first != other)

    def test_pen_thickens_and_thins(self):
        pen = jax.jit(DigitViews(12, **(STILL | dict(pen=1.0))))
        ink = jnp.stack(
            [pen(jax.random.key(k), self.images).sum((1, 2, 3)) for k in range(8)]
        )
        assert ink.min() < 8 < ink.max()

    def test_a_pair_is_two_views(self):
        first, second = DigitViews(12).pair(jax.random.key(0), self.images)
        key, _ = jax.random.split(jax.random.key(0))
        np.testing.assert_array_equal(first, DigitViews(12)(key, self.images))
        assert jnp.any(first != second)

    def test_images_of_another_size_are_resized(self):
        digits = jnp.float32(load_digits().images[:3, ..., None]) / 16
        large = DigitViews(24, **STILL)
        seen = jax.jit(large)(jax.random.key(0), digits)
        np.testing.assert_allclose(seen, jax.jit(large.plain)(digits), atol=1e-5)
        assert seen.shape == (3, 24, 24, 1)
        # Blocks of the enlarged image have about the values of the original pixels.
        back = seen.reshape(3, 8, 3, 8, 3, 1).mean((2, 4))
        assert np.abs(back - digits).mean() < 0.05


def test_views_are_float32_and_the_same_in_float64(x64):
    images, views = jnp.float32(load_digits().images[:3, ..., None]) / 16, DigitViews(8)
    seen = jax.jit(views)(jax.random.key(0), images)
    assert seen.dtype == views.plain(images).dtype == jnp.float32
    with jax.enable_x64(False):
        wanted = jax.jit(views)(jax.random.key(0), images)
    np.testing.assert_allclose(seen, wanted, atol=1e-5)


def test_coordinates_are_not_rounded_to_bfloat16():
    """As the default precision does on a TPU."""
    traced = jax.make_jaxpr(DigitViews(8))(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    products = str(traced).split("dot_general")[1:]
    assert len(products) >= 2
    assert all(re.search(r"precision=\S*HIGH", product) for product in products)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(size=0), "`size` must be at least 1, got 0"),
        (dict(grid=0), "`grid` must be at least 1, got 0"),
        (dict(rotation=-1.0), "`rotation` must be a number of at least 0, got -1.0"),
        (dict(bend=-0.1), "`bend` must be a number of at least 0, got -0.1"),
        (dict(pen=1.5), "`pen` must be from 0 to 1, got 1.5"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        DigitViews(**change)
