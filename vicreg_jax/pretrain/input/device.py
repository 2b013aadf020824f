"""Batches on the devices, one ahead of the step that uses them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import jax

from vicreg_jax.pretrain.input.batches import Batches
from vicreg_jax.pretrain.input.load import Batch


class DeviceBatches(Iterator[Batch]):
    """Batches as global arrays; the next one travels while a step computes.

    Attributes:
        waited: seconds so far in which the host had no batch ready.
    """

    def __init__(self, batches: Batches, sharding: jax.sharding.Sharding):
        self.waited = 0.0
        self._batches, self._sharding = batches, sharding
        self._ahead: deque[tuple[dict[str, int], Batch]] = deque()

    def __iter__(self) -> DeviceBatches:
        return self

    def __next__(self) -> Batch:
        # By now the step before has been dispatched: whatever waits here, for the disk
        # or the link, does so while the devices compute on what they already have.
        while len(self._ahead) < 2:
            state = self._batches.get_state()
            started = time.monotonic()
            batch = next(self._batches, None)
            self.waited += time.monotonic() - started
            if batch is None:
                break
            self._ahead.append((state, self._put(batch)))
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft()[1]

    def get_state(self) -> dict[str, int]:
        """Returns where its user stands, not where reading ahead has got to."""
        return self._ahead[0][0] if self._ahead else self._batches.get_state()

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to where `get_state` was called; see `Batches.set_state`."""
        self._batches.set_state(state)
        self._ahead.clear()

    def _put(self, batch: Batch) -> Batch:
        # The ids stay on the host: they are for logs, and JAX has no int64 by default.
        on_device = {
            name: jax.make_array_from_process_local_data(self._sharding, array)
            for name, array in batch._asdict().items()
            if name != "ids"
        }
        return batch._replace(**on_device)


def to_device(batches: Batches, sharding: jax.sharding.Sharding) -> DeviceBatches:
    """Returns `batches` on the devices of `sharding`, which splits the rows.

    Each process brings its own rows; the arrays are those of the whole step.
    """
    return DeviceBatches(batches, sharding)
