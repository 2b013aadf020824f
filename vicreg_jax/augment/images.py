"""Random views of photographs: the recipe of the VICReg paper and its relatives."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from vicreg_jax.augment import _color, _space
from vicreg_jax.augment._batch import beside, prepared

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray, UInt8

    Images = (
        UInt8[Array, "batch height width channels"]
        | Float[Array, "batch height width channels"]
    )
    Aspect = Float[Array, " batch"] | None
    Views = Float[Array, "batch size size channels"]


@dataclass(frozen=True)
class ImageViews:
    """What is done to each image, drawn anew for every image and view.

    The defaults are the symmetric recipe of appendix C.1 of arXiv:2105.04906. Pairs
    of probabilities are those of the first and of the second view.

    Example:
        >>> images = jax.random.bits(jax.random.key(0), (2, 64, 48, 3), "uint8")
        >>> draw = jax.jit(ImageViews(size=32).pair)
        >>> first, second = draw(jax.random.key(1), images)
        >>> first.shape, first.dtype.name
        ((2, 32, 32, 3), 'float32')
    """

    size: int = 224
    """Side of the views in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the image's area that a view shows."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width over height of what a view shows."""
    flip: float = 0.5
    """Probability of a mirrored view."""
    jitter: float = 0.8
    """Probability that brightness, contrast, saturation and hue change."""
    brightness: float = 0.4
    """Largest change of the factor 1."""
    contrast: float = 0.4
    """Largest change of the factor 1."""
    saturation: float = 0.2
    """Largest change of the factor 1."""
    hue: float = 0.1
    """Largest turn of the hue either way, in turns; at most a half."""
    gray: float = 0.2
    """Probability of a gray view."""
    blur: tuple[float, float] = (0.5, 0.5)
    """Probability of a blurred view."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Least and largest standard deviation of the blur, in pixels of the view."""
    solarize: tuple[float, float] = (0.1, 0.1)
    """Probability that the bright half of the values is inverted."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Taken off each channel at the end; a gray image gets the average of the three."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides each channel at the end; a gray image gets the average of the three."""
    center: float = 0.875
    """What `plain` shows, as a share of the shorter side: 224 of 256 pixels."""

    def __post_init__(self):
        """Refuses what could not be drawn."""
        for name in ("flip", "jitter", "gray", "blur", "solarize"):
            _check(name, getattr(self, name), 0, 1, "a probability")
        for name in ("brightness", "contrast", "saturation"):
            _check(name, getattr(self, name), 0, math.inf, "a number of at least 0")
        _check("hue", self.hue, 0, 0.5, "from 0 to 0.5")
        _check("size", self.size, 1, math.inf, "at least 1")
        tiny = math.ulp(0.0)
        _check("center", self.center, tiny, 1, "above 0 and at most 1")
        _check("std", self.std, tiny, math.inf, "above 0")
        for name, most in (("scale", 1), ("ratio", math.inf), ("sigma", math.inf)):
            least, largest = getattr(self, name)
            if not 0 < least <= largest <= most:
                raise ValueError(
                    f"`{name}` must be a least and a largest value, above 0"
                    f"{' and at most 1' if most == 1 else ''}, got {least, largest}"
                )

    @classmethod
    def official(cls, **changes) -> ImageViews:
        """Returns the recipe of the authors' code, BYOL's, which is asymmetric.

        The first view is always blurred and never solarized, the second rarely
        blurred. `changes` are fields, as for the class.
        """
        byol = cls(blur=(1.0, 0.1), solarize=(0.0, 0.2))
        return dataclasses.replace(byol, **changes)

    def __call__(
        self, key: PRNGKeyArray, images: Images, aspect: Aspect = None, *, view: int = 0
    ) -> Views:
        """Returns one random view of each image.

        Args:
            key: all that is random comes from it.
            images: uint8, or float in [0, 1], one channel or three.
            aspect: width over height of the originals, where the pixels were squeezed
                to another shape; by default that of the pixels.
            view: 0 or 1, the first or the second.

        Returns:
            float32, normalized.

        Raises:
            TypeError: `images` are neither uint8 nor float.
            ValueError: `images` have neither one channel nor three.
        """
        pixels, aspect = prepared(images, aspect)
        keys = beside(pixels, jax.random.split(key, len(pixels)))
        drawn = jax.vmap(partial(self._view, view=view))(keys, pixels, aspect)
        return self._normalized(drawn)

    def pair(
        self, key: PRNGKeyArray, images: Images, aspect: Aspect = None
    ) -> tuple[Views, Views]:
        """Returns the first and the second view of each image; see `__call__`."""
        first, second = jax.random.split(key)
        return (
            self(first, images, aspect, view=0),
            self(second, images, aspect, view=1),
        )

    def plain(self, images: Images, aspect: Aspect = None) -> Views:
        """Returns the middle of each image, normalized: what probes look at."""
        pixels, aspect = prepared(images, aspect)

        def middle(image, aspect):
            box = _space.central_box(aspect, self.center)
            return _space.crop(image, box, self.size)

        return self._normalized(jax.vmap(middle)(pixels, aspect))

    def _view(self, key, image, aspect, view):
        # A key for each operation, so that another probability of one of them leaves
        # what the others draw as it was.
        box_key, flip_key, jitter_key, gray_key, blur_key, solarize_key = (
            jax.random.split(key, 6)
        )
        box = _space.random_box(box_key, aspect, scale=self.scale, ratio=self.ratio)
        image = _space.crop(image, box, self.size)
        image = _maybe(flip_key, self.flip, _space.flip, image)
        change, draw = jax.random.split(jitter_key)
        image = _maybe(change, self.jitter, lambda x: self._jitter(draw, x), image)
        image = _maybe(gray_key, self.gray, _gray, image)
        change, draw = jax.random.split(blur_key)
        image = _maybe(change, self.blur[view], lambda x: self._blur(draw, x), image)
        return _maybe(solarize_key, self.solarize[view], _color.solarize, image)

    def _jitter(self, key, image):
        factor_key, turn_key, order_key = jax.random.split(key, 3)
        strength = jnp.array([self.brightness, self.contrast, self.saturation])
        factors = jax.random.uniform(
            factor_key, (3,), minval=jnp.maximum(0, 1 - strength), maxval=1 + strength
        )
        turns = jax.random.uniform(turn_key, minval=-self.hue, maxval=self.hue)
        order = jax.random.permutation(order_key, 4)
        return _color.jitter(image, factors, turns, order)

    def _blur(self, key, image):
        least, largest = self.sigma
        sigma = jax.random.uniform(key, minval=least, maxval=largest)
        # At four standard deviations the kernel has fallen to 3e-4 of its peak.
        return _space.blur(image, sigma, radius=math.ceil(4 * largest))

    def _normalized(self, images):
        mean, std = jnp.array(self.mean), jnp.array(self.std)
        if images.shape[-1] == 1:
            mean, std = mean.mean(), std.mean()
        return (images - mean) / std


def _check(name, value, least, most, what):
    values = value if isinstance(value, tuple) else (value,)
    if not all(least <= v <= most for v in values):
        raise ValueError(f"`{name}` must be {what}, got {value}")


def _maybe(key, probability, change, image):
    """Applies `change` with `probability`; one that cannot happen is not compiled."""
    if probability == 0:
        return image
    # Fused, an operation that reads a pixel many times makes it anew each time: a view
    # took 27 ms on two CPU cores without the barrier and 12 with it.
    image = jax.lax.optimization_barrier(image)
    return jnp.where(jax.random.bernoulli(key, probability), change(image), image)


def _gray(image):
    return jnp.broadcast_to(_color.gray(image), image.shape)
