"""Encoded images to bytes of one fixed shape."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import UInt8


ORIENTATION = 0x0112  # Exif's tag


class UnreadableError(OSError):
    """An image that cannot be read or decoded."""


class Decoded(NamedTuple):
    """One image.

    Attributes:
        pixels: shape ``(size, size, channels)``, uint8.
        aspect: width over height before it was squeezed into a square.
    """

    pixels: UInt8[np.ndarray, "size size channels"]
    aspect: float


def decode(image: Path | bytes, *, size: int, channels: int) -> Decoded:
    """Reads an image and resizes all of it to a square, bicubic and antialiased.

    Args:
        image: a file, or what one holds.
        size: side of the square.
        channels: 3 for RGB, 1 for grey.

    Raises:
        UnreadableError: it is missing, damaged, or in a format that Pillow lacks.
    """
    try:
        return _decoded(image, size, channels)
    except Exception as error:
        # Damaged files raise whatever the decoder stumbles over: OSError, SyntaxError,
        # ValueError, struct.error, zlib.error, ...
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _decoded(image, size, channels) -> Decoded:
    mode = "RGB" if channels == 3 else "L"
    with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as it:
        # Asked now: a draft rounds its sides.
        aspect = it.width / it.height
        if it.getexif().get(ORIENTATION, 1) >= 5:  # a quarter turn, mirrored or not
            aspect = 1 / aspect
        # A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves twice what is needed,
        # PIL's own rule for thumbnails: 10 ms instead of 24 for 2000x1334 pixels.
        it.draft(mode, (2 * size, 2 * size))
        upright = PIL.ImageOps.exif_transpose(it)
        square = _eight_bits(upright).convert(mode)
        square = square.resize((size, size), PIL.Image.Resampling.BICUBIC)
        return Decoded(np.asarray(square).reshape(size, size, channels), aspect)


def _eight_bits(image):
    """Returns the upper 8 of 16 bits, which `convert` would cut off at 255."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("an image of floats has no known brightest value")
    return image
