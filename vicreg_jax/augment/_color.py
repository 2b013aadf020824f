"""What changes the color of one image, by torchvision's and PIL's definitions.

Images are float in [0, 1], shape ``(height, width, channels)``, 1 or 3 channels.
torchvision rounds to 8 bits after every operation; here nothing is rounded, and what
leaves [0, 1] is clipped, as there.

dm-pix has functions of the same names, but other ones: its brightness adds where
torchvision multiplies, its contrast keeps the mean of each channel and not that of the
gray image, its saturation scales HSV's and does not blend with gray. Its hue and its
solarize are the ones below, which the tests compare; its hue adds a bool to a float,
which strict dtype promotion refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    Image = Float[Array, "height width channels"]
    Scalar = Float[Array, ""]

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's "L"
HUE = 3  # its number among the operations of `jitter`


def gray(image: Image) -> Float[Array, "height width 1"]:
    """Returns the luma of `image`."""
    if image.shape[-1] == 1:
        return image
    # Written out: a product with three numbers is no work for a matrix unit, which
    # would also round to bfloat16.
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def brightness(image: Image, factor: Scalar) -> Image:
    """Blends with black."""
    return _blend(image, jnp.zeros_like(image), factor)


def contrast(image: Image, factor: Scalar) -> Image:
    """Blends with the mean of the gray image."""
    return _blend(image, gray(image).mean(), factor)


def saturation(image: Image, factor: Scalar) -> Image:
    """Blends with the gray image."""
    return _blend(image, gray(image), factor)


def hue(image: Image, turns: Scalar) -> Image:
    """Turns the hue by `turns` of the circle; value and chroma stay.

    The channels of a color of hue h, value v and chroma c are ``v - c * clip(min(k,
    4 - k), 0, 1)`` with ``k = (n + 6 h) mod 6`` and n = 5, 3, 1 for red, green, blue.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., i] for i in range(3))
    value = image.max(-1)
    chroma = value - image.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    k = (jnp.array([5.0, 3.0, 1.0]) + sixth[..., None] + 6 * turns) % 6
    fall = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return value[..., None] - chroma[..., None] * fall


def solarize(image: Image) -> Image:
    """Inverts what is at least half bright: 128 and above in 8 bits, as PIL."""
    return jnp.where(image < 0.5, image, 1 - image)


def jitter(
    image: Image,
    factors: Float[Array, " factors"],
    turns: Scalar,
    order: Int[Array, " operations"],
) -> Image:
    """Changes brightness, contrast, saturation and hue in the given order.

    Args:
        image: float in [0, 1].
        factors: of brightness, contrast and saturation; 1 changes nothing.
        turns: of the hue; 0 changes nothing.
        order: a permutation of 0 to 3: brightness, contrast, saturation, hue.
    """
    # Under vmap a switch over the order would run all of its branches. Three of the
    # operations are one blend with different partners, so that six blends, those on
    # the wrong side of the hue idle (x * 1 + y * 0 is x exactly), and one hue do.
    turn_at = jnp.argmax(order == HUE)
    for slot in range(3):
        image = _step(image, factors, order[slot], idle=slot >= turn_at)
    image = hue(image, turns)
    for slot in range(1, 4):
        image = _step(image, factors, order[slot], idle=slot <= turn_at)
    return image


def _step(image, factors, operation, idle):
    """Applies brightness, contrast or saturation by its number."""
    luma = gray(image)
    partner = jnp.where(
        operation == 0, 0.0, jnp.where(operation == 1, luma.mean(), luma)
    )
    return _blend(
        image, partner, jnp.where(idle, 1.0, factors[jnp.minimum(operation, 2)])
    )


def _blend(image, partner, factor):
    return jnp.clip(factor * image + (1 - factor) * partner, 0, 1)
