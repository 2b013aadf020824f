"""Decoding image files to uint8 arrays of one shape."""

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
    """An image cannot be read or decoded."""


class Decoded(NamedTuple):
    """One image.

    Attributes:
        pixels: uint8, shape ``(size, size, channels)``.
        aspect: width divided by height before the image was resized to a square.
    """

    pixels: UInt8[np.ndarray, "size size channels"]
    aspect: float


def decode(image: Path | bytes, *, size: int, channels: int) -> Decoded:
    """Decodes an image and resizes all of it to a square, bicubic and antialiased.

    Exif's orientation is applied. Transparent images are composed on white. Of 16 bits
    the upper 8 are kept.

    Args:
        image: a file, or its content.
        size: side of the square in pixels.
        channels: 3 for RGB, 1 for grayscale.

    Raises:
        UnreadableError: If it is missing, damaged, or in a format that Pillow lacks.
    """
    try:
        return _decoded(image, size, channels)
    except Exception as error:
        # Pillow's decoders raise many types on damaged files: OSError, SyntaxError,
        # ValueError, struct.error, zlib.error, ...
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _decoded(image, size, channels) -> Decoded:
    mode = "RGB" if channels == 3 else "L"
    with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as it:
        # Before `draft`, which rounds the sides.
        aspect = it.width / it.height
        if it.getexif().get(ORIENTATION, 1) >= 5:  # a quarter turn, mirrored or not
            aspect = 1 / aspect
        # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that leaves at least twice
        # the pixels needed, as `PIL.Image.thumbnail` does: 10 ms instead of 24 for
        # 2000x1334 pixels.
        it.draft(mode, (2 * size, 2 * size))
        upright = PIL.ImageOps.exif_transpose(it)
        square = _on_white(_eight_bits(upright)).convert(mode)
        square = square.resize((size, size), PIL.Image.Resampling.BICUBIC)
        return Decoded(np.asarray(square).reshape(size, size, channels), aspect)


def _eight_bits(image):
    """Returns the upper 8 of 16 bits, because `convert` clips them to 255."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("the range of floating-point pixels is unknown")
    return image


def _on_white(image):
    """Composes a transparent image on white, because `convert` drops its alpha."""
    if not image.has_transparency_data:
        return image
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, image.convert("RGBA"))
