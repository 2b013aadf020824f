"""Views of handwritten digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.augment import DigitViews


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
class TestViews:
    images = jnp.zeros((3, 12, 12, 1)).at[:, 4:8, 5:7].set(1.0)

    def test_no_distortion_is_the_image(self):
        still = DigitViews(0.0, 0.0, 0.0, 0.0, 0.0, pen=0.0)
        seen = still(jax.random.key(0), self.images)
        np.testing.assert_allclose(seen, self.images, atol=1e-5)

    def test_each_image_gets_its_own(self):
        first = DigitViews()(jax.random.key(0), self.images)
        assert first.shape == self.images.shape
        assert 0 <= first.min() and first.max() <= 1 + 1e-6
        assert jnp.any(first[0] != first[1])
        assert jnp.any(first != DigitViews()(jax.random.key(1), self.images))

    def test_pen_thickens_and_thins(self):
        pen = DigitViews(0.0, 0.0, 0.0, 0.0, 0.0, pen=1.0)
        ink = jnp.stack(
            [pen(jax.random.key(k), self.images).sum((1, 2, 3)) for k in range(8)]
        )
        assert ink.min() < 8 < ink.max()
