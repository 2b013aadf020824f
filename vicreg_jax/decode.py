"""Decoding image files to uint8 arrays: whole images, or crops of them."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps

from vicreg_jax._pixels import decoded, resized
from vicreg_jax.augment.crops import Crops, PixelBox, fractions

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import UInt8

    from vicreg_jax.augment.crops import Cropping, Numbers

ORIENTATION = 0x0112  # Exif's tag


class UnreadableError(OSError):
    """An image cannot be read or decoded."""


class Decoded(NamedTuple):
    """One image.

    Attributes:
        pixels: uint8, shape ``(size, size, channels)``.
        aspect: Width divided by height before the image was resized to a square.
    """

    pixels: UInt8[np.ndarray, "size size channels"]
    aspect: float


class Cropped(NamedTuple):
    """Crops of one image.

    Attributes:
        crops: For each size the pixels, uint8, shape ``(count, size, size, channels)``,
            and the boxes, float32, shape ``(count, 4)``; see `Crops`.
        aspect: Width divided by height of the image.
    """

    crops: tuple[Crops, ...]
    aspect: float


def decode(
    image: Path | bytes | PIL.Image.Image, *, size: int, channels: int
) -> Decoded:
    """Decodes an image and resizes all of it to a square, bicubic and antialiased.

    Exif's orientation is applied. Transparent images are composed on white. Of 16 bits
    the upper 8 are kept.

    Args:
        image: A file, its content, or an image that Pillow opened.
        size: Side of the square in pixels.
        channels: 3 for RGB, 1 for grayscale.

    Raises:
        UnreadableError: If it is missing, damaged, or in a format that Pillow lacks.
    """
    with readable(image) as opened:
        height, width = _upright_size(opened)
        whole = PixelBox(0, 0, height, width)
        (pixels,) = _cut(opened, [(whole, size)], channels)
        return Decoded(pixels, width / height)


def decode_crops(
    image: Path | bytes | PIL.Image.Image,
    croppings: tuple[Cropping, ...],
    numbers: list[Numbers],
    *,
    channels: int,
) -> Cropped:
    """Decodes an image and cuts crops from it, bicubic and antialiased.

    Equal to ``PIL.Image.Image.resize(box=...)`` of the image. But a JPEG whose crops
    are all at least four times as wide and high as needed is decoded at a fraction of
    its size. Otherwise as `decode`.

    Args:
        image: A file, its content, or an image that Pillow opened.
        croppings: Where to crop.
        numbers: What `RandomCrops.boxes` takes, for each cropping.
        channels: 3 for RGB, 1 for grayscale.

    Raises:
        UnreadableError: If it is missing, damaged, or in a format that Pillow lacks.
    """
    with readable(image) as opened:
        height, width = _upright_size(opened)
        boxes = [
            [(box, cropping.size) for box in cropping.boxes(drawn, height, width)]
            for cropping, drawn in zip(croppings, numbers, strict=True)
        ]
        cut = iter(_cut(opened, sum(boxes, []), channels))
        crops = tuple(
            Crops(
                np.stack([next(cut) for _ in same]),
                np.array([fractions(box, height, width) for box, _ in same], "f4"),
            )
            for same in boxes
        )
        return Cropped(crops, width / height)


@contextmanager
def readable(image: Path | bytes | PIL.Image.Image):
    """Opens an image; every error inside is an `UnreadableError`."""
    try:
        with _opened(image) as opened:
            yield opened
    except Exception as error:
        # Pillow's decoders raise many types on damaged files: OSError, SyntaxError,
        # ValueError, struct.error, zlib.error, ...
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _upright_size(image) -> tuple[int, int]:
    """Returns height and width after a turn by Exif's orientation."""
    # Mirrored or not. Pillow does not turn an image with any other value.
    quarter_turn = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return image.size if quarter_turn else image.size[::-1]


def _cut(image, boxes: list[tuple[PixelBox, int]], channels: int):
    """Returns boxes of the upright image, each resized to a square of some size."""
    mode = "RGB" if channels == 3 else "L"
    height, width = _upright_size(image)
    # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that leaves at least twice the
    # pixels needed, as `PIL.Image.thumbnail` does: 10 ms instead of 24 for 2000x1334
    # pixels.
    spare = min(min(box.height, box.width) // (2 * size) for box, size in boxes)
    shrink = max(int(spare), 1)
    image.draft(mode, (image.width // shrink, image.height // shrink))
    if shrink == 1:
        image = decoded(image, mode)
    upright = PIL.ImageOps.exif_transpose(image)
    upright = _on_white(_eight_bits(upright)).convert(mode)
    # Not 1 / shrink: `draft` rounds each side up.
    y, x = upright.height / height, upright.width / width
    for box, size in boxes:
        top, left = box.top * y, box.left * x
        # A sum of rounded numbers may lie outside of the image by a rounding.
        bottom = min(top + box.height * y, upright.height)
        right = min(left + box.width * x, upright.width)
        pixels = resized(upright, (left, top, right, bottom), size)
        yield pixels.reshape(size, size, channels)


def _opened(image):
    if isinstance(image, PIL.Image.Image):
        # The caller's image stays open, and `draft` must not change it.
        return image.copy()
    content = image if isinstance(image, bytes) else image.read_bytes()
    opened = PIL.Image.open(io.BytesIO(content))
    if opened.format == "TIFF":
        # Pillow turns these when it loads them. Until then it gives the size of the
        # turned image, but the orientation of the file.
        opened.load()
    return opened


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
