"""The order of the images: a pure function of the seed and the step."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from grain.experimental import index_shuffle

from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt64

NONE = -1  # id of a row that pads the last batch of an epoch


@dataclass(frozen=True)
class Order:
    """The image ids of each step's batch, with a new shuffle in each epoch.

    The ids depend on nothing but the arguments and the step. All shards share one
    global batch, of which each takes its own rows.

    Attributes:
        images: Number of images.
        batch: Rows per step, over all shards.
        seed: Seed of the shuffles, 0 to ``2**32 - 1``.
        shuffle: Whether to shuffle the images.
        drop_remainder: Whether to drop the images at the end of an epoch that do not
            fill a batch. If not, the last batch is padded with -1.
        epochs: Number of epochs, or None for no end.
        shard: Index of this shard and number of shards.

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
        """Checks the arguments."""
        if self.batch < 1:
            raise ValueError(f"`batch` must be at least 1, got {self.batch}")
        if self.drop_remainder and self.images < self.batch:
            raise UsageError(
                "--batch must be at most the number of images to train on, "
                f"{self.images}, got {self.batch}"
            )
        if self.images < 1:
            raise ValueError(f"`images` must be at least 1, got {self.images}")
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
        """Number of batches in an epoch, including a padded one."""
        whole, left = divmod(self.images, self.batch)
        return whole + (left > 0 and not self.drop_remainder)

    @property
    def rows(self) -> range:
        """Rows of the global batch that belong to this shard."""
        index, count = self.shard
        rows = self.batch // count
        return range(index * rows, (index + 1) * rows)

    def __len__(self) -> int:
        if self.epochs is None:
            # The largest length in Python, as of Grain's `repeat` without an end.
            return sys.maxsize
        return self.epochs * self.steps_per_epoch

    def __getitem__(self, index: int) -> Int64[np.ndarray, " rows"]:
        """Returns the ids of this shard's rows at step `index`, shape ``(rows,)``."""
        epoch, step = divmod(index, self.steps_per_epoch)
        places = step * self.batch + np.arange(self.rows.start, self.rows.stop)
        ids = np.full(len(places), NONE)
        shown = places < self.images
        places = places[shown]
        if self.shuffle:
            # Grain adds the epoch to the seed of a shuffle that repeats.
            seed = (self._seed + epoch) % 2**32
            places = [_shuffled(place, self.images, seed) for place in places.tolist()]
        ids[shown] = places
        return ids

    @cached_property
    def _seed(self) -> int:
        # Hashed, so that the second epoch of a seed is not the first of the next seed.
        # Grain does this too: 1 stands for the first transformation after the seed.
        return int(np.random.SeedSequence((self.seed, 1)).generate_state(1)[0])


def _shuffled(place: int, count: int, seed: int) -> int:
    """Returns the image at a place of a shuffled epoch.

    The order is that of Grain's `MapDataset.shuffle`, except where that one shows an
    image twice. `MapDataset` would spend another 10 us on each image. A call takes 7 us
    in a large dataset, and 20 us with 4,000 images, since Grain permutes at least
    65,536 numbers and skips those that are too large.
    """
    last = count - 1
    # If the last number is a power of two, Grain takes one bit too few: of 65,537
    # images it shows one twice an epoch, and the last one never. With one image more it
    # takes enough.
    most = last + 1 if last and last & (last - 1) == 0 else last
    image = index_shuffle(place, max_index=most, seed=seed, rounds=4)
    return image if image <= last else _shuffled(image, count, seed)


def order_hash(ids: Int64[np.ndarray, " rows"], *, first_row: int = 0) -> int:
    """Returns a hash of 64 bits of the ids and of their rows in the global batch.

    The hash of a batch is the sum modulo 2**64 of the hashes of its shards.

    Args:
        ids: Image ids, int64, shape ``(rows,)``.
        first_row: Row of the global batch that the first id belongs to.

    Example:
        >>> ids = np.array([5, 3, 4, 8])
        >>> parts = order_hash(ids[:2]) + order_hash(ids[2:], first_row=2)
        >>> parts % 2**64 == order_hash(ids)
        True
    """
    rows = np.arange(first_row, first_row + len(ids), dtype=np.uint64)
    # Each id is mixed with its row, so that swapped images change the sum, which shards
    # can add up in any order.
    mixed = _mix(_mix(rows) ^ ids.astype(np.uint64))
    return int(mixed.sum(dtype=np.uint64))


def _mix(x: UInt64[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
    """Mixes the 64 bits of each number: the output function of SplitMix64.

    Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195
    """
    # Arrays of uint64 wrap modulo 2**64 without a warning, unlike NumPy's scalars.
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
