"""Batches on the devices, one ahead of the step that uses them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import grain
import jax

from vicreg_jax.pretrain.input.batches import Batches, batches
from vicreg_jax.pretrain.input.order import Order
from vicreg_jax.pretrain.input.read_step import Batch
from vicreg_jax.pretrain.mesh import by_rows

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Config
    from vicreg_jax.pretrain.input.sources import Source


class DeviceBatches(Iterator[Batch]):
    """Batches as global arrays. The next one is transferred while a step computes.

    Attributes:
        waited: Seconds so far in which the next batch was not ready.
    """

    def __init__(self, batches: Batches, sharding: jax.sharding.Sharding):
        self.waited = 0.0
        self._batches, self._sharding = batches, sharding
        self._ahead: deque[Batch] = deque()

    @property
    def order(self) -> Order:
        """Image ids of every step."""
        return self._batches.order

    @property
    def unreadable(self) -> set[str]:
        """Names of the images so far that could not be read."""
        return self._batches.unreadable

    def __next__(self) -> Batch:
        # The previous step has been dispatched, so the devices compute while the host
        # waits here for the disk or the transfer.
        while len(self._ahead) < 2:
            started = time.monotonic()
            batch = next(self._batches, None)
            self.waited += time.monotonic() - started
            if batch is None:
                break
            self._ahead.append(self._put(batch))
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft()

    def seek(self, step: int) -> None:
        """Continues with the batch of a step."""
        self._batches.seek(step)
        self._ahead.clear()

    def close(self) -> None:
        """Ends the worker processes."""
        self._batches.close()

    def _put(self, batch: Batch) -> Batch:
        # The ids stay on the host. They are for logs, and JAX has no int64 by default.
        # None has no leaves, so that `jax.tree.map` passes it over.
        put = partial(jax.make_array_from_process_local_data, self._sharding)
        return jax.tree.map(put, batch._replace(ids=None))._replace(ids=batch.ids)


def to_device(batches: Batches, sharding: jax.sharding.Sharding) -> DeviceBatches:
    """Returns `batches` as global arrays.

    Args:
        batches: The rows of this process.
        sharding: Sharding of the global arrays, which splits the rows.
    """
    return DeviceBatches(batches, sharding)


def on_mesh(
    config: Config, source: Source, mesh: jax.sharding.Mesh, **changes: Any
) -> DeviceBatches:
    """Returns the batches of a run. Each process reads the rows of its devices.

    Args:
        config: The configuration of the run.
        source: The images.
        mesh: The devices.
        changes: Arguments of `batches`, by default those of training.
    """
    arguments = {
        "batch": config.batch,
        "seed": config.seed,
        "shard": grain.sharding.ShardByJaxProcess(),
        "crops": config.crops,
        "unreadable": config.unreadable,
    }
    return to_device(batches(source, **(arguments | changes)), by_rows(mesh))
