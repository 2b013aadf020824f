"""Which images a step sees: a pure function of the seed and the step."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import grain
import numpy as np

from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt64

NONE = -1  # the id of a row that pads an uneven last batch


@dataclass(frozen=True)
class Order:
    """The ids of every step's batch, by step; each epoch in an order of its own.

    Steps of one batch size see the same images in the same rows, whoever asks: a shard
    takes its part of the rows of the one global batch, and nothing is remembered from
    step to step.

    Attributes:
        images: how many there are.
        batch: rows of a step, of all shards together.
        seed: draws the order of every epoch; at most 32 bits.
        shuffle: whether they are shuffled at all.
        drop_remainder: whether the images that fill no batch are left out of an epoch,
            or make one that is padded with -1.
        epochs: how many, None: no end.
        shard: the part of the rows to take, and of how many.

    Example:
        >>> Order(images=5, batch=2, shuffle=False, drop_remainder=False)[2]
        array([ 4, -1])
    """

    images: int
    batch: int
    seed: int = 0
    shuffle: bool = True
    drop_remainder: bool = True
    epochs: int | None = None
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self):
        """Refuses what no batch could be taken from."""
        if self.batch < 1:
            raise ValueError(f"`batch` must be at least 1, got {self.batch}")
        if self.images < (self.batch if self.drop_remainder else 1):
            raise UsageError(
                f"--batch must be at most the number of images, {self.images}, where "
                f"the remainder is dropped, got {self.batch}"
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be from 0 to 2**32 - 1, got {self.seed}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1 or None, got {self.epochs}")
        index, count = self.shard
        if not 0 <= index < count:
            raise ValueError(f"`shard` must be one of {count}, got {index}")
        if self.batch % count:
            raise ValueError(
                f"`batch` must be a multiple of the {count} shards, got {self.batch}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches that an epoch fills, and the padded one."""
        whole, left = divmod(self.images, self.batch)
        return whole + (left > 0 and not self.drop_remainder)

    @property
    def rows(self) -> range:
        """The rows of the global batch that this shard holds."""
        index, count = self.shard
        rows = self.batch // count
        return range(index * rows, (index + 1) * rows)

    def __len__(self) -> int:
        if self.epochs is None:
            return sys.maxsize
        return self.epochs * self.steps_per_epoch

    def __getitem__(self, index: int) -> Int64[np.ndarray, " rows"]:
        """Returns the ids of this shard's rows of step `index`."""
        epoch, place = divmod(index, self.steps_per_epoch)
        start = place * self.batch
        ids = (
            self._shuffled[epoch * self.images + start + row]
            if start + row < self.images
            else NONE
            for row in self.rows
        )
        return np.fromiter(ids, np.int64, len(self.rows))

    @cached_property
    def _shuffled(self) -> grain.MapDataset:
        # Beyond its length it goes on with the next epoch, shuffled by another seed.
        ids = grain.MapDataset.range(self.images)
        return ids.seed(self.seed).shuffle() if self.shuffle else ids


def order_hash(ids: Int64[np.ndarray, " rows"], *, first_row: int = 0) -> int:
    """Returns 64 bits that depend on every id and on its row of the global batch.

    The sum modulo 2**64 of the hashes of all shards, each with its `first_row`, is the
    hash of the whole batch.

    Example:
        >>> ids = np.array([5, 3, 4, 8])
        >>> parts = order_hash(ids[:2]) + order_hash(ids[2:], first_row=2)
        >>> parts % 2**64 == order_hash(ids)
        True
    """
    rows = np.arange(first_row, first_row + len(ids), dtype=np.uint64)
    mixed = _mix(_mix(rows) ^ ids.astype(np.uint64))
    return int(mixed.sum(dtype=np.uint64))


def _mix(x: UInt64[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
    """Spreads every bit over all 64: the output function of SplitMix64.

    Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
