"""From the ids of a step to its images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from vicreg_jax.pretrain.input.decode import UnreadableError
from vicreg_jax.pretrain.input.order import NONE
from vicreg_jax.pretrain.input.sources import UNLABELLED, Rows, Sample, in_memory

if TYPE_CHECKING:
    from jaxtyping import Int64

    from vicreg_jax.pretrain.input.sources import Source

TRIES = 100  # unreadable images in a row after which the disk is at fault


class Batch(NamedTuple):
    """One shard's rows of a step.

    Attributes:
        images: shape ``(rows, height, width, channels)``, uint8.
        ids: number of the image in its source, int64, -1 where there is none.
        labels: class of the image, int32, -1 where it has none.
        where: bool, False in rows to leave out: padding, or unreadable.
        aspect: width over height as photographed, float32.
    """

    images: np.ndarray | jax.Array
    ids: np.ndarray
    labels: np.ndarray | jax.Array
    where: np.ndarray | jax.Array
    aspect: np.ndarray | jax.Array


@dataclass(frozen=True)
class Load:
    """Reads the images of one step."""

    source: Source
    threads: int
    replace: bool
    fatal: bool

    def __call__(
        self, ids: Int64[np.ndarray, " rows"]
    ) -> tuple[Batch, Int64[np.ndarray, " unreadable"]]:
        """Returns the rows of `ids`, and the ids that could not be read."""
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
        # Ids go round, so that the last image has a next one as well.
        while asked != NONE:
            shown = (asked + len(unreadable)) % len(self.source)
            try:
                return _Row(self.source[shown], shown, unreadable)
            except UnreadableError as error:
                if self.fatal:
                    raise
                unreadable.append(shown)
                if len(unreadable) == TRIES:
                    raise ValueError(f"{TRIES} images in a row: {error}") from error
                if not self.replace:
                    break
        blank = np.zeros(self.source.shape, np.uint8)
        return _Row(Sample(blank, UNLABELLED, 1.0), NONE, unreadable)


def _batch(rows: Rows, shown: Int64[np.ndarray, " rows"]) -> Batch:
    """Returns a batch whose rows that show no image are blank and without a label."""
    where = shown != NONE
    rows.images[~where], rows.labels[~where], rows.aspect[~where] = 0, UNLABELLED, 1
    return Batch(rows.images, shown, rows.labels, where, rows.aspect)


class _Row(NamedTuple):
    sample: Sample
    shown: int
    unreadable: list[int]
