"""Batches of decoded images, read ahead, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import grain
from absl import flags

from vicreg_jax.pretrain.input import worker
from vicreg_jax.pretrain.input.order import Order
from vicreg_jax.pretrain.input.read_step import Batch, Load
from vicreg_jax.pretrain.input.sources import has_files

if TYPE_CHECKING:
    from vicreg_jax.augment.crops import Cropping
    from vicreg_jax.pretrain.input.sources import Source


class Batches(Iterator[Batch]):
    """The batches of one shard. See `batches`.

    Attributes:
        order: Image ids of every step, before unreadable images are replaced.
        unreadable: Names of the images so far that could not be read.
    """

    def __init__(self, load: Load, workers: int):
        self.order = load.order
        self.unreadable: set[str] = set()
        self._load, self._workers = load, workers
        self._step = 0  # of the next batch
        # Workers start at the first batch, so a `seek` before it starts none in vain.
        self._reading = None

    def __next__(self) -> Batch:
        if self._reading is None:
            self._reading = self._read_ahead()
        batch, unreadable = next(self._reading)
        self._step += 1
        self.unreadable |= {self._load.source.name(i) for i in unreadable.tolist()}
        return batch

    def seek(self, step: int) -> None:
        """Continues with the batch of a step.

        It is the same for any number of shards and workers, since the order is a
        function of seed and step.
        """
        self.close()
        self._step = step

    def close(self) -> None:
        """Ends the worker processes. The next batch starts others where it stopped."""
        if self._reading is not None:
            self._reading.close()
        self._reading = None

    def _read_ahead(self) -> grain.DatasetIterator:
        # Each step is one element. Grain deals the elements out to the workers, so
        # batches of elements would depend on the number of workers.
        steps = grain.MapDataset.range(self._step, len(self.order)).map(self._load)
        # Grain's defaults, 16 threads and 500 elements ahead, would hold 500 batches. A
        # worker reads ahead without a thread: it sends a batch and reads the next.
        threads = 0 if self._workers else 1
        ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        read = steps.to_iter_dataset(ahead)
        if self._workers:
            # Grain's workers read absl's flags, which only absl programs parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            processes = grain.MultiprocessingOptions(num_workers=self._workers)
            read = read.mp_prefetch(processes, worker.start)
        return iter(read)


# The arguments of `batches` with which each image comes once, in its order.
IN_ORDER: dict[str, Any] = {"shuffle": False, "drop_remainder": False, "epochs": 1}


def batches(
    source: Source,
    *,
    batch: int,
    seed: int = 0,
    shard: grain.sharding.ShardOptions | None = None,
    crops: tuple[Cropping, ...] = (),
    shuffle: bool = True,
    drop_remainder: bool = True,
    epochs: int | None = None,
    workers: int = 0,
    threads: int = 8,
    unreadable: Literal["skip", "fatal"] = "skip",
) -> Batches:
    """Returns the batches of one shard.

    An unreadable image does not move any other. If the remainder is dropped, as in
    training, its row shows the next readable image of the source, so every batch is
    full. Otherwise, as in evaluation, `Batch.where` masks its row. Its name is added to
    `Batches.unreadable`.

    Args:
        source: The images.
        batch: Rows per step, over all shards.
        seed: Seed of the shuffles.
        shard: Part of every batch to return, by default all of it.
            ``grain.sharding.ShardByJaxProcess()`` gives each process its own.
        crops: What to cut from the original pixels of image files, such as the `crops`
            of `ImageViews`. Random crops are drawn by seed, step and row. Empty: whole
            images. Images that are not files stay whole in any case.
        shuffle: Whether to shuffle the images.
        drop_remainder: Whether to drop the images at the end of an epoch that do not
            fill a batch. If not, their batch is padded.
        epochs: Number of epochs, or None for no end.
        workers: Number of processes that read and decode. 0: the calling one.
        threads: Images decoded at a time in each process.
        unreadable: Whether to skip unreadable images, or raise at the first.

    Raises:
        ValueError: If an argument is out of range, or, while iterating, after 100
            consecutive unreadable images.
        UnreadableError: While iterating, if an image is unreadable and `unreadable` is
            "fatal".
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
    load = Load(
        source,
        order,
        crops if has_files(source) else (),
        threads,
        replace=drop_remainder,
        fatal=unreadable == "fatal",
        shared=workers > 0,
    )
    return Batches(load, workers)
