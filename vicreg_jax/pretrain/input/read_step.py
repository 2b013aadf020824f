"""Reading the images of one step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from grain.multiprocessing import SharedMemoryArray

from vicreg_jax.augment.crops import Crops, uniform
from vicreg_jax.decode import UnreadableError, decode_crops
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input.order import NONE, Order
from vicreg_jax.pretrain.input.sources import UNLABELED, has_files, in_memory

if TYPE_CHECKING:
    from jaxtyping import Int64

    from vicreg_jax.augment.crops import Cropping, Numbers
    from vicreg_jax.pretrain.input.sources import Arrays, Source

TRIES = 100  # consecutive unreadable images: more likely the disk than the images


class Batch(NamedTuple):
    """One shard's rows of a step.

    Attributes:
        images: uint8, shape ``(rows, height, width, channels)``; or, instead of whole
            images, one `Crops` for each of the croppings that `batches` was given.
        ids: int64, index of each image in its source; -1 for none.
        labels: int32, class of each image; -1 for none.
        where: bool, False in rows to leave out: padding, or unreadable images.
        aspect: float32, width divided by height of each original image.
    """

    images: np.ndarray | jax.Array | tuple[Crops, ...]
    ids: np.ndarray
    labels: np.ndarray | jax.Array
    where: np.ndarray | jax.Array
    aspect: np.ndarray | jax.Array


@dataclass(frozen=True)
class Load:
    """Reads the images of one step.

    Attributes:
        source: The images.
        order: The ids of each step.
        crops: What to cut from image files. Empty: whole images are read.
        threads: Images to decode at a time.
        replace: Show the next readable image instead of an unreadable one, or leave
            its row out.
        fatal: Raise at the first unreadable image.
        shared: Put images into shared memory, which Grain passes from a worker process
            to its parent as it is. Anything else it would copy there once more.
    """

    source: Source
    order: Order
    crops: tuple[Cropping, ...]
    threads: int
    replace: bool
    fatal: bool
    shared: bool = False

    def __call__(self, step: int) -> tuple[Batch, Int64[np.ndarray, " unreadable"]]:
        """Returns the batch of a step, and the ids of unreadable images."""
        ids = self.order[step]
        if found := in_memory(self.source, ids):
            return _batch(*found, shown=ids), np.array([], np.int64)
        return self._read(ids, self._numbers(step))

    def _numbers(self, step: int) -> list[list[Numbers]]:
        """Returns for each row and each cropping what decides its boxes."""
        rows = self.order.rows
        # By row and not by image: an image that is shown instead of an unreadable one
        # takes the numbers of its row.
        drawn = [
            uniform(self.order.seed, step, rows, count=cropping.count, stream=stream)
            for stream, cropping in enumerate(self.crops)
        ]
        return [[numbers[row] for numbers in drawn] for row in range(len(rows))]

    def _read(
        self, ids: Int64[np.ndarray, " rows"], numbers: list[list[Numbers]]
    ) -> tuple[Batch, Int64[np.ndarray, " unreadable"]]:
        images = self._allocated(len(ids))
        numbered = range(len(ids)), ids.tolist(), numbers
        mapped = map if self.threads == 1 else _pool(self.threads).map
        try:
            rows = list(mapped(partial(self._row, images), *numbered))
        except Exception:
            # Threads may still fill rows. The memory is freed after the last of them.
            _discard(images)
            raise
        shown = np.array([row.shown for row in rows], np.int64)
        batch = Batch(
            images,
            ids=shown,
            labels=np.array([row.label for row in rows], np.int32),
            where=shown != NONE,
            aspect=np.array([row.aspect for row in rows], np.float32),
        )
        unreadable = np.array([i for row in rows for i in row.unreadable], np.int64)
        return batch, unreadable

    def _allocated(self, rows: int) -> np.ndarray | tuple[Crops, ...]:
        # Not zeroed, because `_row` fills every row, if need be with `_blank`.
        allocate = SharedMemoryArray if self.shared else np.empty
        return jax.tree.map(
            lambda row: allocate((rows, *row.shape), row.dtype), self._blank()
        )

    def _row(self, images, row: int, asked: int, numbers: list[Numbers]) -> _Row:
        """Reads a row of the images."""
        found, image = self._found(asked, numbers)
        # At once, because rows that are kept until the batch is whole take memory that
        # the system has to clear: a tenth of the time of decoding and cropping.
        jax.tree.map(partial(_put, row), images, image)
        return found

    def _found(self, asked: int, numbers: list[Numbers]):
        """Returns an image, and what is known of it."""
        unreadable = []
        # Modulo, because the next image after the last one is the first.
        while asked != NONE:
            shown = (asked + len(unreadable)) % len(self.source)
            try:
                image, label, aspect = self._image(shown, numbers)
                return _Row(label, aspect, shown, unreadable), image
            except UnreadableError as error:
                if self.fatal:
                    raise
                unreadable.append(shown)
                if len(unreadable) == TRIES:
                    raise UsageError(
                        f"gave up after {TRIES} consecutive unreadable images; the "
                        f"last error was: {error}"
                    ) from error
                if not self.replace:
                    break
        return _Row(UNLABELED, 1.0, NONE, unreadable), self._blank()

    def _image(self, index: int, numbers: list[Numbers]):
        """Returns the image or crops of it, its class, and its aspect ratio."""
        if not (self.crops and has_files(self.source)):
            return self.source[index]
        decoder = partial(
            decode_crops,
            croppings=self.crops,
            numbers=numbers,
            channels=self.source.shape[2],
        )
        (crops, aspect), label = self.source.read(index, decoder)
        return crops, label, aspect

    def _blank(self) -> np.ndarray | tuple[Crops, ...]:
        height, width, channels = self.source.shape
        if not self.crops:
            return np.zeros((height, width, channels), np.uint8)
        return tuple(
            Crops(
                np.zeros((crop.count, crop.size, crop.size, channels), np.uint8),
                np.tile(np.array([0, 0, 1, 1], np.float32), (crop.count, 1)),
            )
            for crop in self.crops
        )


def _put(row: int, images: np.ndarray, image: np.ndarray) -> None:
    images[row] = image


def _discard(images: np.ndarray | tuple[Crops, ...]) -> None:
    """Frees what is in shared memory, whose name nobody will get."""
    for array in jax.tree.leaves(images):
        if isinstance(array, SharedMemoryArray):
            array.unlink_on_del()


def _batch(arrays: Arrays, ids: np.ndarray, shown: np.ndarray) -> Batch:
    """Returns a batch; rows without an image are black and unlabeled."""
    where, (height, width, _) = shown != NONE, arrays.shape
    # An array as index makes a copy, so that the source stays as it is. An id of -1
    # takes the last image, which is overwritten below.
    images, labels = arrays.images[ids], arrays.labels[ids].astype(np.int32)
    images[~where], labels[~where] = 0, UNLABELED
    aspect = np.where(where, width / height, 1).astype(np.float32)
    return Batch(images, shown, labels, where, aspect)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Returns the threads of this process, which keep their memory between batches."""
    return ThreadPoolExecutor(threads)


class _Row(NamedTuple):
    label: int
    aspect: float
    shown: int
    unreadable: list[int]
