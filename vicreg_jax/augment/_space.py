"""Crops, flips and blurs of one image.

Images are float in [0, 1], shape ``(height, width, channels)``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

    Image = Float[Array, "height width channels"]
    Scalar = Float[Array, ""]

# Three passes of bfloat16 on a TPU, whose error of 2^-16 is far below a step of 8 bits,
# and one of TF32 on a GPU, whose error of 2^-11 is an eighth of a step. The official
# code rounds to 8 bits after every operation.
PRECISION = jax.lax.Precision.HIGH
TRIES = 10  # boxes that torchvision draws before it falls back to the center


class Box(NamedTuple):
    """A part of an image, in fractions of the image's height and width."""

    top: Scalar
    left: Scalar
    height: Scalar
    width: Scalar


def random_box(
    key: PRNGKeyArray,
    aspect: Scalar,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Returns the box of torchvision's RandomResizedCrop, without rounding to pixels.

    The fraction of the area is uniform in `scale`, and the logarithm of width over
    height is uniform between those of `ratio`. The first of ten such boxes that fits
    into the image is returned. If none fits, it is the largest centered box whose
    width over height is within `ratio`.

    Args:
        key: The only source of randomness.
        aspect: Width over height of the original image. `ratio` refers to the original,
            even if the image has been resized to another aspect ratio since.
        scale: Smallest and largest fraction of the area.
        ratio: Smallest and largest width over height.
    """
    area_key, shape_key, place_key = jax.random.split(key, 3)
    # All tries at once: under `jax.vmap` a loop would run until every image has a box.
    # With a dtype, so that the same is drawn where float64 is switched on.
    draw = partial(jax.random.uniform, shape=(TRIES,), dtype=jnp.float32)
    area = draw(area_key, minval=scale[0], maxval=scale[1])
    shape = jnp.exp(draw(shape_key, minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])))
    # Sides h and w in fractions of the image's: h * w is the area, and aspect * w / h
    # is the width over height of the box in the original.
    heights = jnp.sqrt(area * aspect / shape)
    widths = jnp.sqrt(area * shape / aspect)
    fits = (heights <= 1) & (widths <= 1)
    first = jnp.argmax(fits)
    # torchvision's three cases in one: at least one of the two sides below is 1.
    nearest = jnp.clip(aspect, ratio[0], ratio[1])
    height = jnp.where(fits.any(), heights[first], jnp.minimum(1, aspect / nearest))
    width = jnp.where(fits.any(), widths[first], jnp.minimum(1, nearest / aspect))
    place = jax.random.uniform(place_key, (2,), jnp.float32)
    top, left = jnp.where(fits.any(), place, 0.5)
    return Box(top * (1 - height), left * (1 - width), height, width)


def central_box(aspect: Scalar, fraction: float) -> Box:
    """Returns the centered square whose side is `fraction` of the shorter side."""
    height = fraction * jnp.minimum(1, aspect)
    width = fraction * jnp.minimum(1, 1 / aspect)
    return Box((1 - height) / 2, (1 - width) / 2, height, width)


def crop(image: Image, box: Box, size: int) -> Float[Array, "size size channels"]:
    """Resizes a part of the image to a square with PIL's antialiased bicubic filter.

    As in PIL's ``Image.resize(box=...)``, pixels outside of the box count at its edges,
    as far as the filter reaches. Cropping first and resizing later would lose them.
    """
    sides = jnp.array(image.shape[:2], jnp.float32)
    scale = size / (sides * jnp.stack([box.height, box.width]))
    corner = sides * jnp.stack([box.top, box.left])
    shape = (size, size, image.shape[2])
    # Two products with matrices of weights. A slice would need a size that is known at
    # compile time. JAX's "cubic" is the kernel of Pillow, Keys' with a = -0.5; that of
    # PyTorch without antialiasing has -0.75.
    resized = jax.image.scale_and_translate(
        image, shape, (0, 1), scale, -corner * scale, "cubic", precision=PRECISION
    )
    return jnp.clip(resized, 0, 1)  # the cubic filter overshoots at edges


def resize(image: Image, size: int) -> Float[Array, "size size channels"]:
    """Resizes the whole image to a square; see `crop`."""
    zero, one = jnp.float32(0), jnp.float32(1)
    return crop(image, Box(zero, zero, one, one), size)


def flip(image: Image) -> Image:
    """Returns the mirror image, left and right exchanged."""
    return image[:, ::-1]


def blur(image: Image, sigma: Scalar, *, radius: int) -> Image:
    """Blurs with a Gaussian of standard deviation `sigma` pixels, cut at `radius`.

    Pixels outside of the image repeat those at its border, as in PIL. dm-pix takes them
    for black, which darkens the border.
    """
    # A product with a banded matrix along each axis. A convolution with one kernel for
    # each image, as in dm-pix, becomes a convolution with as many groups as images
    # under `jax.vmap`. Adding shifted copies of the image was slower on CPUs as well.
    for axis in (0, 1):
        image = _blur_axis(image, sigma, radius, axis)
    return image


def _blur_axis(image, sigma, radius, axis):
    side = image.shape[axis]
    offset = jnp.arange(side + 2 * radius) - jnp.arange(side)[:, None] - radius
    # PIL, which the authors' code calls, blurs with three box filters instead.
    gaussian = jnp.exp(-0.5 * (offset.astype(jnp.float32) / sigma) ** 2)
    band = jnp.where(jnp.abs(offset) <= radius, gaussian, 0.0)
    band = band / band.sum(1, keepdims=True)
    padding = [(0, 0)] * image.ndim
    padding[axis] = (radius, radius)
    padded = jnp.pad(image, padding, mode="edge")
    blurred = jnp.tensordot(band, padded, (1, axis), precision=PRECISION)
    return jnp.moveaxis(blurred, 0, axis)
