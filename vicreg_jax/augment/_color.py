"""Color operations on one image, as torchvision and PIL define them.

Images are float in [0, 1], shape ``(height, width, channels)`` with 1 or 3 channels.
torchvision rounds to 8 bits after every operation. Here nothing is rounded, and values
outside of [0, 1] are clipped, as in torchvision.

dm-pix has functions with the same names and other definitions. Its brightness adds,
while torchvision's multiplies. Its contrast keeps the mean of each channel, not that of
the gray image. Its saturation scales that of HSV and does not blend with gray. Its hue
and solarize agree with those below, which the tests check, but its hue adds a bool to a
float, which JAX's strict dtype promotion refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    Image = Float[Array, "height width channels"]
    Scalar = Float[Array, ""]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's mode "L"
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the operations of `jitter`


def gray(image: Image) -> Float[Array, "height width 1"]:
    """Returns the luma of `image`."""
    if image.shape[-1] == 1:
        return image
    # Not a matrix product: with three weights it gains nothing from a matrix unit,
    # which on a TPU would also round to bfloat16.
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def hue(image: Image, turns: Scalar) -> Image:
    """Rotates the hue by `turns` of the color circle. Value and chroma stay.

    A color with hue h, value v and chroma c has the channels ``v - c * clip(min(k,
    4 - k), 0, 1)`` with ``k = (n + 6 h) mod 6``, where n is 5 for red, 3 for green and
    1 for blue.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., i] for i in range(3))
    value = image.max(-1)
    chroma = value - image.min(-1)
    # Gray has no hue. Any will do, because it is multiplied by a chroma of 0.
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # Not `value == red`: XLA may compute a channel twice and round it in two ways. Near
    # a tie two of the three agree.
    sixth = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    k = (jnp.array([5.0, 3.0, 1.0], image.dtype) + sixth[..., None] + 6 * turns) % 6
    fall = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return value[..., None] - chroma[..., None] * fall


def solarize(image: Image) -> Image:
    """Inverts all values from 0.5 up. In 8 bits these are 128 and above, as in PIL."""
    return jnp.where(image < 0.5, image, 1 - image)


def jitter(
    image: Image,
    factors: Float[Array, " factors"],
    turns: Scalar,
    order: Int[Array, " operations"],
) -> Image:
    """Changes brightness, contrast, saturation and hue in the given order.

    Each of the first three blends the image with a partner, ``factor * image +
    (1 - factor) * partner``: black for brightness, the mean of the gray image for
    contrast, and the gray image for saturation.

    Args:
        image: float in [0, 1].
        factors: Factors of brightness, contrast and saturation. 1 changes nothing.
        turns: Rotation of the hue, see `hue`. 0 changes nothing.
        order: A permutation of 0 to 3: brightness, contrast, saturation, hue.
    """
    # Under `jax.vmap`, `lax.switch` over the order would compute all of its branches.
    # Instead there are three blends before the hue and three after it. Those on the
    # wrong side of the hue get the factor 1, which returns the image exactly.
    hue_slot = jnp.argmax(order == HUE)
    for slot in range(3):
        image = _blend(image, factors, order[slot], skip=slot >= hue_slot)
    image = hue(image, turns)
    for slot in range(1, 4):
        image = _blend(image, factors, order[slot], skip=slot <= hue_slot)
    return image


def _blend(image, factors, operation, skip):
    """Applies brightness, contrast or saturation, or nothing if `skip` is true."""
    luma = gray(image)
    partner = jnp.where(operation == CONTRAST, luma.mean(), luma)
    partner = jnp.where(operation == BRIGHTNESS, 0.0, partner)
    factor = jnp.where(skip, 1.0, factors[jnp.minimum(operation, SATURATION)])
    return jnp.clip(factor * image + (1 - factor) * partner, 0, 1)
