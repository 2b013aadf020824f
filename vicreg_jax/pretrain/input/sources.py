"""Images by index: the protocol, arrays in memory, and parts of other sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeGuard, TypeVar

import numpy as np

from vicreg_jax.decode import decode
from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Int32, Integer, UInt8

    Labels = Int32[np.ndarray, " images"]

T = TypeVar("T")
UNLABELED = -1
HELD_OUT = 0.2


class Sample(NamedTuple):
    """One image, its class (-1: none) and the aspect ratio of the original.

    The aspect ratio is width divided by height, before the image became a square.
    """

    image: UInt8[np.ndarray, "height width channels"]
    label: int
    aspect: float


class Source(Protocol):
    """Images of one shape, by index; worker processes get a pickled copy."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        ...

    @property
    def labels(self) -> Labels:
        """The class of every image; -1 for none."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes by number; empty if they have none."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Returns one image.

        Raises:
            UnreadableError: If it cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """Returns the name of an image for messages, such as its path."""
        ...


class FileSource(Source, Protocol):
    """Encoded images, which are decoded when they are read."""

    def read(self, index: int, decoder: Callable[[Path | bytes], T]) -> tuple[T, int]:
        """Returns what a decoder makes of an image, and its class (-1: none).

        Args:
            index: Number of the image.
            decoder: Called with the file or its content.

        Raises:
            UnreadableError: If it cannot be read.
        """
        ...


class Decoded:
    """What sources share that decode images to squares of `size` pixels a side."""

    size: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.size, self.size, self.channels

    def __getitem__(self: FileSource, index: int) -> Sample:
        # `self` has the type of the protocol, because `read` is defined by subclasses.
        size, _, channels = self.shape
        decoder = partial(decode, size=size, channels=channels)
        (pixels, aspect), label = self.read(index, decoder)
        return Sample(pixels, label, aspect)


@dataclass(frozen=True)
class Arrays:
    """Images in memory.

    Attributes:
        images: uint8, shape ``(images, height, width, channels)``.
        labels: int32, the class of every image; -1 for none.
        classes: The names of the classes by number.
    """

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
        # Images in memory are never made square, so this is the original's.
        aspect = self.shape[1] / self.shape[0]
        return Sample(self.images[index], int(self.labels[index]), aspect)

    def name(self, index: int) -> str:
        """Returns the index of the image."""
        return f"image {index}"


@dataclass(frozen=True)
class Subset:
    """Some images of another source, with indices of their own."""

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

    def read(self, index: int, decoder: Callable[[Path | bytes], T]) -> tuple[T, int]:
        """Returns what a decoder makes of an image; see `FileSource`."""
        if not has_files(self.source):
            raise TypeError(f"`source` must hold files, got {self.source}")
        return self.source.read(int(self.chosen[index]), decoder)

    def name(self, index: int) -> str:
        """Returns the name of the image in the whole source."""
        return self.source.name(int(self.chosen[index]))


def in_memory(
    source: Source, ids: Integer[np.ndarray, " rows"]
) -> tuple[Arrays, Integer[np.ndarray, " rows"]] | None:
    """Returns the arrays that hold the images of `ids`, and their ids in them.

    None: the images are not in memory.
    """
    if isinstance(source, Subset):
        # An id of -1, of padding, takes the last image. Callers mask its row.
        return in_memory(source.source, source.chosen[ids])
    return (source, ids) if isinstance(source, Arrays) else None


def has_files(source: Source) -> TypeGuard[FileSource]:
    """Returns whether the images are decoded when they are read."""
    if isinstance(source, Subset):
        # Every subset has the method `read`, also one of arrays.
        return has_files(source.source)
    # `isinstance` with a protocol would compute `labels`, for which records are read.
    return hasattr(source, "read")


def split(source: Source) -> tuple[Subset, Subset]:
    """Splits labeled images into training and held-out images.

    A fifth of each class is held out, the same images for the same source.

    Raises:
        UsageError: If an image has no label, or a class has too few images.
    """
    from sklearn.model_selection import train_test_split

    labels = source.labels
    if (labels == UNLABELED).any():
        raise UsageError(
            "--data must have a label for every image or for none, got none for "
            f"{(labels == UNLABELED).sum()} of {len(labels)}"
        )
    counts = np.unique(labels, return_counts=True)[1]
    # scikit-learn needs one held-out image for each class. It rounds their number up,
    # so k classes need more than k - 1 before rounding.
    if counts.min() < 2 or HELD_OUT * len(labels) <= len(counts) - 1:
        raise UsageError(
            "--data must have at least 2 images of each class, and 5 on average, so "
            f"that a fifth can be held out; got {len(labels)} images of {len(counts)} "
            f"classes, the smallest with {counts.min()}"
        )
    # Not by the seed of the run, so that no run trains on what another one holds out.
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=0
    )
    return Subset(source, np.asarray(train)), Subset(source, np.asarray(held_out))
