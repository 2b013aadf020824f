"""Frozen features of a run's images, by its trained or its untrained encoder."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from vicreg_jax.pretrain.input.batches import IN_ORDER
from vicreg_jax.pretrain.input.device import on_mesh
from vicreg_jax.pretrain.mesh import by_rows
from vicreg_jax.probe import Labeled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jax.sharding import Sharding
    from jaxtyping import Bool, Int64

    from vicreg_jax.pretrain.input import DeviceBatches, Source
    from vicreg_jax.pretrain.step import Programs, State

# Flax's momentum of 0.9 leaves 0.5% of the initial statistics after 50 batches.
_STATISTICS_BATCHES = 50


def features(
    programs: Programs, state: State, source: Source, *, workers: int = 0
) -> Labeled:
    """Returns the features of the readable images; see `readable_features`."""
    return readable_features(programs, state, source, workers=workers)[0]


def readable_features(
    programs: Programs, state: State, source: Source, *, workers: int = 0
) -> tuple[Labeled, Bool[np.ndarray, " images"]]:
    """Returns the frozen features of the readable images, and which images these are.

    Each process encodes its share of the images and returns the features of all.

    Args:
        programs: The programs of the run.
        state: The state whose encoder is used.
        source: The images.
        workers: Processes that read and decode images. 0: this process does.

    Returns:
        Features of shape ``(images, width of the encoder)``, float32, with labels; and
        a mask of the images.

    Raises:
        UnreadableError: If an image is unreadable, and the run asks to stop at one.
    """
    parts, order = [], _of_images(by_rows(programs.mesh), programs.config.batch)
    with closing(in_order(programs, source, workers)) as rows:
        for batch in rows:
            part = programs.encode(
                state, batch.images, batch.aspect, batch.labels, batch.where
            )
            # To the host at once, because each device has the features of all rows,
            # and those of a large set would fill its memory.
            parts.append([np.asarray(array)[order] for array in part])
    found, labels, where = map(np.concatenate, zip(*parts, strict=True))
    # The rows after the last image pad its batch.
    return Labeled(found[where], labels[where]), where[: len(source)]


def _of_images(sharding: Sharding, batch: int) -> Int64[np.ndarray, " batch"]:
    """Returns the rows of a global batch in the order of their images."""
    placed = sharding.devices_indices_map((batch,)).items()
    return by_process(
        (device.process_index, range(*rows.indices(batch)))
        for device, (rows,) in placed
    )


def by_process(placed: Iterable[tuple[int, range]]) -> Int64[np.ndarray, " batch"]:
    """Returns the rows of the first process, then those of the second, and so on.

    Each process reads the next part of the images. Its devices need not lie side by
    side in the mesh, which follows the wiring on TPUs.

    Args:
        placed: A process and the rows on one of its devices, of all devices.
    """
    rows: dict[int, set[int]] = {}
    for process, held in placed:
        rows.setdefault(process, set()).update(held)
    return np.concatenate([sorted(rows[process]) for process in sorted(rows)])


def untrained(programs: Programs, source: Source, *, workers: int = 0) -> State:
    """Returns the state before training, with batch-norm statistics from images.

    New batch norms have mean 0 and variance 1, which fit no image. With them an
    untrained encoder would be a weaker baseline than its weights are.
    """
    state, config = programs.start(), programs.config
    rows = on_mesh(
        config,
        source,
        programs.mesh,
        # An incomplete batch is dropped, so a set smaller than a batch would have none.
        batch=min(config.batch, len(source)),
        crops=config.plain_crops,
        workers=workers,
    )
    with closing(rows):
        for batch in islice(rows, _STATISTICS_BATCHES):
            state = programs.with_statistics(state, batch.images, batch.aspect)
    return state


def in_order(programs: Programs, source: Source, workers: int) -> DeviceBatches:
    """Returns batches on the devices that have every image once.

    The rows that pad the last batch are masked.
    """
    return on_mesh(
        programs.config,
        source,
        programs.mesh,
        crops=programs.config.plain_crops,
        workers=workers,
        **IN_ORDER,
    )
