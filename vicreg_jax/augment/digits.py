"""Random views of written digits.

Written digits keep their meaning when they are turned a little, scaled, slanted,
shifted, bent, or drawn with another pen, and lose it when they are mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray


@dataclass(frozen=True)
class DigitViews:
    """The strength of each distortion, drawn anew for every image and view."""

    rotation: float = 20.0
    """Largest turn either way, in degrees."""
    scale: float = 0.25
    """Largest change of the logarithm of each side's scale."""
    shear: float = 0.3
    """Largest slant, pixels sideways for each pixel down."""
    shift: float = 0.1
    """Largest shift either way, as a share of the image's side."""
    bend: float = 0.05
    """Standard deviation of the elastic displacement, as a share of the side."""
    grid: int = 4
    """Knots a side of the elastic displacement: more of them bend more finely."""
    pen: float = 0.7
    """Largest change of the stroke: 1 is a whole pixel thicker or thinner."""

    def __call__(
        self,
        key: PRNGKeyArray,
        images: Float[Array, "batch height width channels"],
    ) -> Float[Array, "batch height width channels"]:
        """Returns one random view of each image."""
        keys = jax.random.split(key, len(images))
        return jax.vmap(self._view)(keys, images)

    def pair(
        self,
        key: PRNGKeyArray,
        images: Float[Array, "batch height width channels"],
    ) -> tuple[Array, Array]:
        """Returns both views of each image, drawn alike."""
        first, second = jax.random.split(key)
        return self(first, images), self(second, images)

    def _view(self, key, image):
        warp_key, pen_key = jax.random.split(key)
        change = jax.random.uniform(pen_key, minval=-self.pen, maxval=self.pen)
        return _warp(_redraw(image, change), self._coordinates(warp_key, image.shape))

    def _coordinates(self, key, shape):
        """Returns where each pixel of the view comes from, (2, height, width)."""
        turn_key, scale_key, shear_key, shift_key, bend_key = jax.random.split(key, 5)
        side = jnp.array(shape[:2], jnp.float32)
        turn = _within(turn_key, jnp.deg2rad(self.rotation))
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        rotation = jnp.array([[cos, -sin], [sin, cos]])
        shear = jnp.eye(2).at[1, 0].set(_within(shear_key, self.shear))
        scale = jnp.exp(_within(scale_key, self.scale, (2,)))
        linear = rotation @ shear * scale
        shift = _within(shift_key, self.shift, (2,)) * side

        center = (side - 1) / 2
        grid = jnp.stack(
            jnp.meshgrid(*(jnp.arange(n) for n in shape[:2]), indexing="ij")
        )
        offset = grid - center[:, None, None]
        bend = jax.random.normal(bend_key, (2, self.grid, self.grid)) * self.bend
        bend = jax.image.resize(bend, (2, *shape[:2]), "cubic") * side[:, None, None]
        moved = jnp.einsum("ij,jhw->ihw", linear, offset)
        return moved + bend + (center + shift)[:, None, None]


def _within(key, bound, shape=()):
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _redraw(image, change):
    """Thickens the strokes by `change` of a pixel, or thins them where negative."""
    window = (3, 3, 1)
    strides = (1, 1, 1)
    thick = jax.lax.reduce_window(image, 0.0, jax.lax.max, window, strides, "SAME")
    thin = jax.lax.reduce_window(image, 1.0, jax.lax.min, window, strides, "SAME")
    toward = jnp.where(change > 0, thick, thin)
    return image + jnp.abs(change) * (toward - image)


def _warp(image, coordinates):
    def channel(pixels):
        return map_coordinates(pixels, list(coordinates), order=1, mode="constant")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)
