"""Batches of decoded images, read ahead, that can be taken up at any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import grain
from absl import flags

from vicreg_jax.pretrain.input.load import Batch, Load
from vicreg_jax.pretrain.input.order import Order

if TYPE_CHECKING:
    from vicreg_jax.pretrain.input.sources import Source


class Batches(Iterator[Batch]):
    """The batches of one shard; see `batches`.

    Attributes:
        order: the ids of every step, before any unreadable image was replaced.
        step: of the batch that comes next.
        unreadable: names of the images met since the start that could not be read.
    """

    def __init__(self, source: Source, order: Order, load: Load, workers: int):
        self.order = order
        self.step = 0
        self.unreadable: set[str] = set()
        self._source, self._load, self._workers = source, load, workers
        self._reading = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self._reading is None:
            self._reading = self._read_ahead()
        batch, unreadable = next(self._reading)
        self.unreadable |= {self._source.name(i) for i in unreadable.tolist()}
        self.step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns where it stands, for JSON: the same on every shard."""
        return {"step": self.step} | self._identity()

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to where `get_state` was called, with any number of shards or workers.

        Raises:
            ValueError: the state is of other images, or of another order.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"`state` must be of a run with `{name}` {value}, "
                    f"got {state.get(name)}"
                )
        self.close()
        self.step = state["step"]

    def close(self) -> None:
        """Ends the worker processes."""
        if self._reading is not None:
            self._reading.close()
        self._reading = None

    def _identity(self) -> dict[str, int]:
        order = self.order
        return {
            "images": order.images,
            "batch": order.batch,
            "seed": order.seed,
            "shuffle": int(order.shuffle),
            "drop_remainder": int(order.drop_remainder),
        }

    def _read_ahead(self) -> grain.DatasetIterator:
        # A step is one element, so that it is one worker's, whole: Grain deals the
        # elements out to the workers, and batches made of elements would depend on
        # their number.
        steps = grain.MapDataset.source(self.order)[self.step :].map(self._load)
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        read = steps.to_iter_dataset(ahead)
        if self._workers:
            # Grain's workers read absl's flags, which only an absl program parses.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            processes = grain.MultiprocessingOptions(num_workers=self._workers)
            read = read.mp_prefetch(processes)
        return iter(read)


def batches(
    source: Source,
    *,
    batch: int,
    seed: int = 0,
    shard: grain.sharding.ShardOptions | None = None,
    shuffle: bool = True,
    drop_remainder: bool = True,
    epochs: int | None = None,
    workers: int = 0,
    threads: int = 8,
    unreadable: Literal["skip", "fatal"] = "skip",
) -> Batches:
    """Returns the batches of one shard, without end or for some epochs.

    An unreadable image does not move the others. Where the remainder is dropped, which
    is for training, its row shows the next readable image of the source instead, so
    that every batch is full; else, which is for judging, its row is left out by
    `where`. Either way it is named in `Batches.unreadable`.

    Args:
        source: the images.
        batch: rows of a step, all shards together.
        seed: draws the order of every epoch.
        shard: which part of every batch to make, by default all of it;
            ``grain.sharding.ShardByJaxProcess()`` gives each process its own.
        shuffle: whether the order is random.
        drop_remainder: leave out the images at the end of an epoch that fill no batch,
            or pad their batch.
        epochs: how many, None: no end.
        workers: processes that read and decode, 0: the calling one.
        threads: images decoded at a time in each process.
        unreadable: skip such images, or raise at the first.

    Raises:
        ValueError: an argument is out of range, or a hundred images in a row could not
            be read (while iterating).
        UnreadableError: an image could not be read and that is fatal (while iterating).
    """
    for name, value, least in (("workers", workers, 0), ("threads", threads, 1)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    if unreadable not in ("skip", "fatal"):
        raise ValueError(f"`unreadable` must be 'skip' or 'fatal', got {unreadable!r}")
    order = Order(
        images=len(source),
        batch=batch,
        seed=seed,
        shuffle=shuffle,
        drop_remainder=drop_remainder,
        epochs=epochs,
        shard=(shard.shard_index, shard.shard_count) if shard else (0, 1),
    )
    load = Load(source, threads, replace=drop_remainder, fatal=unreadable == "fatal")
    return Batches(source, order, load, workers)
