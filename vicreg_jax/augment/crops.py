"""Crops that the host cuts from the original pixels of image files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from vicreg_jax.augment import _settings
from vicreg_jax.augment._space import TRIES

if TYPE_CHECKING:
    import jax
    from jaxtyping import Float64

    Numbers = Float64[np.ndarray, f"count {TRIES} 4"]


class PixelBox(NamedTuple):
    """A part of an image, in pixels."""

    top: float
    left: float
    height: float
    width: float


class Crops(NamedTuple):
    """Crops of one size of each image of a batch.

    Attributes:
        pixels: uint8, shape ``(batch, count, size, size, channels)``.
        boxes: float32, shape ``(batch, count, 4)``: top, left, height and width of each
            crop, in fractions of the original image's height and width.
    """

    pixels: np.ndarray | jax.Array
    boxes: np.ndarray | jax.Array


@dataclass(frozen=True)
class RandomCrops:
    """The crops of torchvision's RandomResizedCrop."""

    count: int = 2
    """Crops of each image."""
    size: int = 224
    """Height and width in pixels to which each crop is resized."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest fraction of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width over height."""

    def __post_init__(self):
        """Checks the settings."""
        _settings.check_size("count", self.count)
        _settings.check_size("size", self.size)
        _settings.check_range("scale", self.scale, 1)
        _settings.check_range("ratio", self.ratio, math.inf)

    def boxes(self, numbers: Numbers, height: int, width: int) -> list[PixelBox]:
        """Returns the boxes in an image of some height and width.

        The fraction of the area is uniform in `scale`, and the logarithm of width over
        height is uniform between those of `ratio`. Both sides are rounded to pixels.
        The first of ten such boxes that fits into the image is placed at random. If
        none fits, the box is the largest centered one with a width over height within
        `ratio`.

        Args:
            numbers: Uniform in [0, 1), from `uniform`.
            height: Height of the image.
            width: Width of the image.
        """
        return [self._box(tries, height, width) for tries in numbers.tolist()]

    def _box(self, tries: list[list[float]], height: int, width: int) -> PixelBox:
        least, most = self.scale
        low, high = (math.log(bound) for bound in self.ratio)
        # Each try has four numbers of its own, so a rejected one shifts no other.
        for area, shape, top, left in tries:
            pixels = height * width * (least + (most - least) * area)
            ratio = math.exp(low + (high - low) * shape)
            h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
            if 0 < h <= height and 0 < w <= width:
                # Every pixel where the box fits is equally likely.
                top, left = int(top * (height - h + 1)), int(left * (width - w + 1))
                return PixelBox(top, left, h, w)
        # torchvision's three cases in one: at most one of the two sides is cut.
        h = max(min(height, round(width / self.ratio[0])), 1)
        w = max(min(width, round(height * self.ratio[1])), 1)
        return PixelBox((height - h) // 2, (width - w) // 2, h, w)


@dataclass(frozen=True)
class CenterCrop:
    """The center of an image, as torchvision's Resize and CenterCrop show it."""

    size: int = 224
    """Height and width in pixels to which the crop is resized."""
    center: float = 0.875
    """Its side as a fraction of the image's shorter side."""
    count: ClassVar[int] = 1

    def __post_init__(self):
        """Checks the settings."""
        _settings.check_size("size", self.size)
        _settings.check_center(self.center)

    def boxes(self, numbers: Numbers, height: int, width: int) -> list[PixelBox]:
        """Returns the one box in an image; `numbers` are not used."""
        del numbers
        shorter = round(self.size / self.center)
        # torchvision resizes the whole image and crops whole pixels of the result.
        tall, wide = (
            int(shorter * side / min(height, width)) for side in (height, width)
        )
        top, left = (round((side - self.size) / 2) for side in (tall, wide))
        y, x = height / tall, width / wide
        return [PixelBox(top * y, left * x, self.size * y, self.size * x)]


Cropping = RandomCrops | CenterCrop


def uniform(
    seed: int, step: int, rows: range, *, count: int, stream: int = 0
) -> Float64[np.ndarray, f"rows count {TRIES} 4"]:
    """Returns random numbers in [0, 1) for the boxes of some rows of a batch.

    Each number is a function of seed, step, row, crop and stream alone: the generator
    is counter-based (Philox: Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405),
    and the row and the crop are its counter.

    Args:
        seed: Seed of the run.
        step: Number of the training step.
        rows: Numbers of the rows in the global batch.
        count: Crops of each image.
        stream: One of several independent streams.
    """
    blocks = count * TRIES
    # One count of Philox gives four words, the numbers of one try. The stream is in the
    # upper words of the counter, and the step in the upper word of the key.
    first = rows.start * blocks + (stream << 64)
    words = np.random.Philox(key=seed + (step << 64), counter=first).random_raw(
        len(rows) * blocks * 4
    )
    # 32 bits, so that a product with a number of pixels is exact and stays below it.
    return ((words >> np.uint64(32)) / 2.0**32).reshape(len(rows), count, TRIES, 4)


def fractions(box: PixelBox, height: int, width: int) -> tuple[float, ...]:
    """Returns top, left, height and width in fractions of an image's sides."""
    return (box.top / height, box.left / width, box.height / height, box.width / width)
