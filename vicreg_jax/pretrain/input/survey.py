"""What a path holds: how many images, of what size, and whether they have colors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicreg_jax.decode import readable
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input.array_records import Records
from vicreg_jax.pretrain.input.datasets import open_source
from vicreg_jax.pretrain.input.files import Files
from vicreg_jax.pretrain.input.sources import HELD_OUT, UNLABELED, Arrays

LEAST_SIDE, MOST_SIDE = 32, 256
_OPENED = 100  # files; decoding a photograph takes about ten milliseconds
_GRAY = 8  # largest difference of the three channels, of 255, in a gray image


class Survey(NamedTuple):
    """What `survey` found.

    Attributes:
        images: Number of training images.
        size: Side in pixels to decode them to.
        channels: 3 if an image has colors, else 1.
        in_memory: Whether the images are arrays, which keep their size.
    """

    images: int
    size: int
    channels: int
    in_memory: bool


def survey(data: str | Path) -> Survey:
    """Returns what a path holds, as seen in up to 100 of its files.

    Raises:
        UsageError: If it does not hold images, or none of the files can be read.
        FileNotFoundError: If there is no such file or folder.
    """
    source = open_source(data)
    images = len(source)
    if isinstance(source, Arrays):
        height, _, channels = source.shape
        return Survey(_training(images, source.labels[0]), height, channels, True)
    if not isinstance(source, Files | Records):
        raise TypeError(f"`data` must be files, got {type(source).__name__}")
    # Spread over all files: the first ones may be of one class, since files are sorted.
    chosen = np.unique(np.linspace(0, images - 1, _OPENED).astype(int))
    # So small that a large JPEG is decoded at a fraction of its size. One copy for all
    # of them, because each copy of `Records` opens the files again.
    small = dataclasses.replace(source, size=32, channels=3)
    seen = [image for index in chosen if (image := _inspect(small, int(index)))]
    if not seen:
        raise UsageError(f"--data must hold images that can be read, got {data}")
    side = int(np.median([side for side, _, _ in seen])) // 8 * 8
    size = min(max(side, LEAST_SIDE), MOST_SIDE)
    channels = 3 if any(colored for _, colored, _ in seen) else 1
    return Survey(_training(images, seen[0][2]), size, channels, False)


def _training(images: int, label: int) -> int:
    """Returns how many images are left if a fifth of labeled ones is held out."""
    # Rounded up, as scikit-learn does in `split`.
    return images if label == UNLABELED else images - math.ceil(HELD_OUT * images)


def _shorter_side(image: Path | bytes) -> int:
    with readable(image) as opened:
        return min(opened.size)


def _inspect(source: Files | Records, index: int) -> tuple[int, bool, int] | None:
    """Returns an image's shorter side, whether it has colors, and its label.

    Its colors are those of what `source` decodes.
    """
    try:
        side, label = source.read(index, _shorter_side)
        thumbnail = source[index].image
    except OSError:
        return None
    spread = np.ptp(thumbnail.astype(int), axis=-1).max()
    return side, bool(spread > _GRAY), label
