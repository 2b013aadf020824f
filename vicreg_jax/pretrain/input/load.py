"""Reading the images of one step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input.decode import UnreadableError
from vicreg_jax.pretrain.input.order import NONE
from vicreg_jax.pretrain.input.sources import UNLABELED, Rows, Sample, in_memory

if TYPE_CHECKING:
    from jaxtyping import Int64

    from vicreg_jax.pretrain.input.sources import Source

TRIES = 100  # consecutive unreadable images: more likely the disk than the images


class Batch(NamedTuple):
    """One shard's rows of a step.

    Attributes:
        images: uint8, shape ``(rows, height, width, channels)``.
        ids: int64, index of each image in its source; -1 for none.
        labels: int32, class of each image; -1 for none.
        where: bool, False in rows to leave out: padding, or unreadable images.
        aspect: float32, width divided by height of each original image.
    """

    images: np.ndarray | jax.Array
    ids: np.ndarray
    labels: np.ndarray | jax.Array
    where: np.ndarray | jax.Array
    aspect: np.ndarray | jax.Array


@dataclass(frozen=True)
class Load:
    """Reads the images of one step; called with their ids.

    Attributes:
        source: the images.
        threads: images to decode at a time.
        replace: show the next readable image instead of an unreadable one, or leave
            its row out.
        fatal: raise at the first unreadable image.
    """

    source: Source
    threads: int
    replace: bool
    fatal: bool

    def __call__(
        self, ids: Int64[np.ndarray, " rows"]
    ) -> tuple[Batch, Int64[np.ndarray, " unreadable"]]:
        """Returns the rows of `ids`, and the ids of unreadable images."""
        rows = in_memory(self.source, ids)
        if rows is not None:
            return _batch(rows, ids), np.array([], np.int64)
        return self._read(ids)

    def _read(
        self, ids: Int64[np.ndarray, " rows"]
    ) -> tuple[Batch, Int64[np.ndarray, " unreadable"]]:
        with ThreadPoolExecutor(self.threads) as pool:
            rows = list(pool.map(self._row, ids.tolist()))
        samples = [row.sample for row in rows]
        shown = np.array([row.shown for row in rows], np.int64)
        read = Rows(
            images=np.stack([sample.image for sample in samples]),
            labels=np.array([sample.label for sample in samples], np.int32),
            aspect=np.array([sample.aspect for sample in samples], np.float32),
        )
        unreadable = np.array([i for row in rows for i in row.unreadable], np.int64)
        return _batch(read, shown), unreadable

    def _row(self, asked: int) -> _Row:
        unreadable = []
        # Modulo, because the next image after the last one is the first.
        while asked != NONE:
            shown = (asked + len(unreadable)) % len(self.source)
            try:
                return _Row(self.source[shown], shown, unreadable)
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
        blank = np.zeros(self.source.shape, np.uint8)
        return _Row(Sample(blank, UNLABELED, 1.0), NONE, unreadable)


def _batch(rows: Rows, shown: Int64[np.ndarray, " rows"]) -> Batch:
    """Returns a batch; rows without an image are black and unlabeled."""
    where = shown != NONE
    rows.images[~where], rows.labels[~where], rows.aspect[~where] = 0, UNLABELED, 1
    return Batch(rows.images, shown, rows.labels, where, rows.aspect)


class _Row(NamedTuple):
    sample: Sample
    shown: int
    unreadable: list[int]
