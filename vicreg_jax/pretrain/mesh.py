"""The device mesh of a run, and the shardings on it."""

from __future__ import annotations

import math
import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.pretrain.errors import UsageError


def axes(mesh: str | None, devices: int) -> dict[str, int]:
    """Returns the number of devices along each axis, by the name of the axis.

    Args:
        mesh: For example "data=8" or "data=4,more=2". None: one axis, "data", with all
            devices.
        devices: Number of all devices.

    Raises:
        UsageError: If `mesh` has another form.
    """
    if mesh is None:
        return {"data": devices}
    parts = [re.fullmatch(r"(\w+)=(\d+)", part) for part in mesh.split(",")]
    sizes = {part[1]: int(part[2]) for part in parts if part}
    # An axis that is named twice also leaves fewer sizes than parts.
    if len(sizes) != len(parts) or not all(sizes.values()):
        raise UsageError(
            f'--mesh must be such as "data=8" or "data=4,more=2", got {mesh!r}'
        )
    return sizes


def make_mesh(mesh: str | None = None) -> Mesh:
    """Returns a mesh of the first devices, as many as `mesh` asks for; see `axes`.

    Raises:
        UsageError: If there are fewer devices, or if there are several processes and
            the mesh does not use all devices.
    """
    devices = jax.devices()
    sizes = axes(mesh, len(devices))
    wanted = math.prod(sizes.values())
    # Each process reads the rows of its own devices, so none may be left without any.
    if wanted > len(devices) or (jax.process_count() > 1 and wanted != len(devices)):
        raise UsageError(f"--mesh must use the {len(devices)} devices, got {mesh!r}")
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        # The step leaves it to the compiler to insert collectives. On Explicit axes,
        # the default since JAX 0.9, it would have to name shardings itself.
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices[:wanted],
    )


def by_rows(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows are split over all axes."""
    return NamedSharding(mesh, P(mesh.axis_names))


def whole(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters: they are replicated on every device."""
    return NamedSharding(mesh, P())


def check_batch(batch: int, accumulate: int, devices: int) -> None:
    """Checks that every device gets equally many rows of each part of a batch.

    Raises:
        UsageError: If the batch size is not divisible.
    """
    if batch % (devices * accumulate):
        parts = f" times --accumulate {accumulate}" if accumulate > 1 else ""
        raise UsageError(
            f"--batch must be a multiple of {devices * accumulate} ({devices} devices"
            f"{parts}), got {batch}; --mesh can select fewer devices"
        )
