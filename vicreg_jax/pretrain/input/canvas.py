"""Digits at known places on a canvas: a dataset for dense prediction that is at hand.

Each canvas of 40x40 pixels shows three of MNIST's digits, shrunk to 14x14, in three of
its quarters. Two of them are of one class, which is the label of the image.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vicreg_jax.pretrain.input.mnist import read_mnist
from vicreg_jax.pretrain.input.sources import Arrays

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

SIDE, DIGIT = 40, 14  # pixels
SPLITS = {"canvas": (0, 4000), "canvas-test": (4000, 5000)}  # MNIST's digits of each
BACKGROUND = 10  # the class of a position without a digit
_QUARTERS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)]) * (SIDE // 2)


class Canvases(NamedTuple):
    """Canvases, and where their digits are.

    Attributes:
        pixels: uint8, shape ``(images, SIDE, SIDE, 1)``.
        classes: Class of each digit, shape ``(images, 3)``. The first two are the same.
        corners: Top and left of each digit in pixels, shape ``(images, 3, 2)``.
    """

    pixels: UInt8[np.ndarray, "images side side 1"]
    classes: Int[np.ndarray, "images digits"]
    corners: Int[np.ndarray, "images digits 2"]

    def cells(self, grid: int) -> Int[np.ndarray, "images grid grid"]:
        """Returns the class of the digit at the center of each cell, or `BACKGROUND`.

        The cells are those of a feature map of `grid` rows and columns.
        """
        centers = (np.arange(grid) + 0.5) * SIDE / grid
        offset = centers - self.corners[..., None]  # images, digits, 2, grid
        inside = (offset >= 0) & (offset < DIGIT)
        inside = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]
        numbers = self.classes[..., None, None] - BACKGROUND
        return BACKGROUND + (inside * numbers).sum(axis=1)


@cache
def canvases(name: str) -> Canvases:
    """Returns the canvases of a dataset, the same ones every time.

    "canvas" has 4,000 images, and "canvas-test" 1,000 with other digits.
    """
    images, labels = read_mnist()
    shuffled = np.random.default_rng(0).permutation(len(labels))
    pool = shuffled[slice(*SPLITS[name])]
    rng = np.random.default_rng(SPLITS[name])
    # Half of the digits' size: means of 2x2 pixels.
    small = images[pool].reshape(-1, DIGIT, 2, DIGIT, 2).mean(axis=(2, 4))
    labels = labels[pool]
    chosen = rng.integers(len(pool), size=(len(pool), 3))
    of_class = [np.flatnonzero(labels == number) for number in range(10)]
    chosen[:, 1] = [rng.choice(of_class[labels[first]]) for first in chosen[:, 0]]
    quarters = rng.permuted(np.tile(np.arange(4), (len(pool), 1)), axis=1)[:, :3]
    shift = rng.integers(SIDE // 2 - DIGIT + 1, size=(len(pool), 3, 2))
    corners = _QUARTERS[quarters] + shift
    pixels = np.zeros((len(pool), SIDE, SIDE, 1), np.uint8)
    for canvas, digits, places in zip(pixels, chosen, corners, strict=True):
        for digit, (top, left) in zip(digits, places, strict=True):
            canvas[top : top + DIGIT, left : left + DIGIT, 0] = small[digit]
    return Canvases(pixels, labels[chosen], corners)


def read_canvas(name: str) -> Arrays:
    """Returns the images and labels of a dataset; see `canvases`."""
    pixels, classes, _ = canvases(name)
    names = tuple(str(digit) for digit in range(10))
    return Arrays(pixels, classes[:, 0].astype(np.int32), names)
