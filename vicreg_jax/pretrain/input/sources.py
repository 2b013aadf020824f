"""Images by number: in memory, or a part of another source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, Integer, UInt8

    Labels = Int32[np.ndarray, " images"]

UNLABELLED = -1


class Sample(NamedTuple):
    """One image, its class (-1: none) and its width over height as photographed."""

    image: UInt8[np.ndarray, "height width channels"]
    label: int
    aspect: float


class Rows(NamedTuple):
    """Several images, with a row in each array; see `Sample`."""

    images: UInt8[np.ndarray, "rows height width channels"]
    labels: Int32[np.ndarray, " rows"]
    aspect: Float32[np.ndarray, " rows"]


class Source(Protocol):
    """Images of one shape, by number; pickled where worker processes read them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        ...

    @property
    def labels(self) -> Labels:
        """The class of every image, -1 where it has none."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Returns an image, or raises UnreadableError."""
        ...

    def name(self, index: int) -> str:
        """Returns what a person would look for: a path."""
        ...


@dataclass(frozen=True)
class Arrays:
    """Images in memory: `images` uint8, ``(images, height, width, channels)``."""

    images: UInt8[np.ndarray, "images height width channels"]
    labels: Labels
    classes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        aspect = self.shape[1] / self.shape[0]
        return Sample(self.images[index], int(self.labels[index]), aspect)

    def name(self, index: int) -> str:
        """Returns the number of the image."""
        return f"image {index}"


@dataclass(frozen=True)
class Subset:
    """Some images of another source; ids count within the subset."""

    source: Source
    chosen: Integer[np.ndarray, " images"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.source.shape

    @property
    def labels(self) -> Labels:
        """The class of every image."""
        return self.source.labels[self.chosen]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.source.classes

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.chosen[index])]

    def name(self, index: int) -> str:
        """Returns the name of the image in the whole source."""
        return self.source.name(int(self.chosen[index]))


def in_memory(source: Source, ids: Integer[np.ndarray, " rows"]) -> Rows | None:
    """Returns the images of `ids` by one indexing; None where they have to be read."""
    if isinstance(source, Subset):
        return in_memory(source.source, source.chosen[ids])
    if not isinstance(source, Arrays):
        return None
    height, width, _ = source.shape
    aspect = np.full(len(ids), width / height, np.float32)
    return Rows(source.images[ids], source.labels[ids].astype(np.int32), aspect)


def split(
    source: Source, held_out: float = 0.2, seed: int = 0
) -> tuple[Subset, Subset]:
    """Returns images to learn from and images to judge on, by class in equal shares.

    Args:
        source: labelled images, at least two of each class.
        held_out: share to judge on, above 0 and below 1.
        seed: draws them.

    Raises:
        ValueError: an image has no label, or a class has one image only.
    """
    labels = source.labels
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must be above 0 and below 1, got {held_out}")
    if (labels == UNLABELLED).any():
        raise ValueError(
            "`source` must have a label for every image, got none for "
            f"{(labels == UNLABELLED).sum()} of {len(labels)}"
        )
    train, judged = train_test_split(
        np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=seed
    )
    return Subset(source, np.asarray(train)), Subset(source, np.asarray(judged))
