"""Random views of handwritten digits.

A digit can still be read after a small rotation, scaling, shear, shift or elastic
displacement, or when it is drawn with another pen. Mirrored, it is another character.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from vicreg_jax.augment import _settings, _space
from vicreg_jax.augment._batch import prepare, shard_like

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

    from vicreg_jax.augment._batch import Aspect, Images, View


@dataclass(frozen=True)
class DigitViews:
    """Random geometric distortions, drawn independently for every image and view.

    Images of another size are first resized to `size`. Views stay in [0, 1].

    Example:
        >>> images = jax.random.bits(jax.random.key(0), (2, 28, 28, 1), "uint8")
        >>> draw = jax.jit(DigitViews().pair)
        >>> first, second = draw(jax.random.key(1), images)
        >>> first.shape, first.dtype.name
        ((2, 28, 28, 1), 'float32')
    """

    size: int = 28
    """Height and width of the views in pixels."""
    rotation: float = 20.0
    """Largest rotation in either direction, in degrees."""
    scale: float = 0.25
    """Largest change of the logarithm of the scale, drawn for each axis."""
    shear: float = 0.3
    """Largest shear: pixels sideways for each pixel down."""
    shift: float = 0.1
    """Largest shift along each axis, as a fraction of the size."""
    bend: float = 0.05
    """Standard deviation of the elastic displacement, as a fraction of the size."""
    grid: int = 4
    """Knots of the elastic displacement along each axis. More knots, finer bends."""
    pen: float = 0.7
    """Largest change of the stroke width. 1 is a whole pixel thicker or thinner."""

    def __post_init__(self):
        """Checks the settings."""
        _settings.check_size("size", self.size)
        _settings.check_size("grid", self.grid)
        for name in ("rotation", "scale", "shear", "shift", "bend"):
            _settings.check_not_negative(name, getattr(self, name))
        _settings.check_between("pen", self.pen, 0, 1, "from 0 to 1")

    def __call__(
        self, key: PRNGKeyArray, images: Images, aspect: Aspect | None = None
    ) -> View:
        """Returns one random view of each image.

        Args:
            key: The only source of randomness.
            images: uint8, or float in [0, 1], with 1 or 3 channels.
            aspect: Checked, and otherwise unused: views show the whole image as it is.

        Returns:
            float32 in [0, 1].

        Raises:
            TypeError: If `images` is neither uint8 nor float.
            ValueError: If a shape is wrong.
        """
        pixels = self.plain(images, aspect)
        keys = shard_like(pixels, jax.random.split(key, len(pixels)))
        return jax.vmap(self._view)(keys, pixels)

    def pair(
        self, key: PRNGKeyArray, images: Images, aspect: Aspect | None = None
    ) -> tuple[View, View]:
        """Returns two random views of each image; see `__call__`."""
        first, second = jax.random.split(key)
        return self(first, images, aspect), self(second, images, aspect)

    def plain(self, images: Images, aspect: Aspect | None = None) -> View:
        """Returns the images without distortion; see `__call__`."""
        pixels, _ = prepare(images, aspect)
        # A resize to the same size would round on a TPU; see `_space.PRECISION`.
        if pixels.shape[1:3] == (self.size, self.size):
            return pixels
        return jax.vmap(lambda image: _space.resize(image, self.size))(pixels)

    def crops_only(self) -> DigitViews:
        """Returns these views, which change shapes alone."""
        return self

    def _view(self, key, image):
        warp_key, pen_key = jax.random.split(key)
        change = _within(pen_key, self.pen)
        # The pen comes first: `pen` is in pixels of the image before it is scaled.
        return _warp(_redraw(image, change), self._coordinates(warp_key, image.shape))

    def _coordinates(self, key, shape):
        """Returns the image coordinates of each pixel of a view, (2, height, width)."""
        turn_key, scale_key, shear_key, shift_key, bend_key = jax.random.split(key, 5)
        side = jnp.array(shape[:2], jnp.float32)
        # From the view to the image, so that every pixel of the view gets a value. With
        # a scale above 1 it reads a larger part of the image: the digit shrinks.
        turn = _within(turn_key, jnp.deg2rad(self.rotation))
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        rotation = jnp.array([[cos, -sin], [sin, cos]])
        shear = (
            jnp.eye(2, dtype=jnp.float32).at[1, 0].set(_within(shear_key, self.shear))
        )
        scale = jnp.exp(_within(scale_key, self.scale, (2,)))
        # The scale multiplies columns: it acts first, along the axes of the view.
        linear = jnp.matmul(rotation, shear, precision=_space.PRECISION) * scale
        shift = _within(shift_key, self.shift, (2,)) * side

        center = (side - 1) / 2
        rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in shape[:2])
        grid = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"))
        offset = grid - center[:, None, None]
        knots = (2, self.grid, self.grid)
        bend = jax.random.normal(bend_key, knots, jnp.float32) * self.bend
        # Cubic, because linear interpolation would crease strokes at the knots.
        bend = jax.image.resize(bend, (2, *shape[:2]), "cubic") * side[:, None, None]
        moved = jnp.einsum("ij,jhw->ihw", linear, offset, precision=_space.PRECISION)
        return moved + bend + (center + shift)[:, None, None]


def _within(key, bound, shape=()):
    # With a dtype, so that views are the same where float64 is switched on.
    return jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)


def _redraw(image, change):
    """Makes strokes thicker by `change` of a pixel, or thinner if it is negative."""
    window = (3, 3, 1)
    strides = (1, 1, 1)
    # 0 and 1 bound the pixels, so the padding changes no maximum and no minimum.
    black, white = image.dtype.type(0), image.dtype.type(1)
    thick = jax.lax.reduce_window(image, black, jax.lax.max, window, strides, "SAME")
    thin = jax.lax.reduce_window(image, white, jax.lax.min, window, strides, "SAME")
    toward = jnp.where(change > 0, thick, thin)
    return image + jnp.abs(change) * (toward - image)


def _warp(image, coordinates):
    def channel(pixels):
        # Digits are bright on black, so all is 0 outside of the image. JAX has no order
        # above 1, and a cubic one would leave [0, 1].
        return map_coordinates(pixels, list(coordinates), order=1, mode="constant")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)
