"""Which devices share a run, and how its arrays lie on them."""

from __future__ import annotations

import math
import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.pretrain.errors import UsageError


def axes(mesh: str | None, devices: int) -> dict[str, int]:
    """Returns the devices along each axis by its name.

    Args:
        mesh: such as "data=8" or "data=4,more=2"; None: all along "data".
        devices: how many there are.

    Raises:
        UsageError: If it is not such a text.
    """
    if mesh is None:
        return {"data": devices}
    parts = [re.fullmatch(r"(\w+)=(\d+)", part) for part in mesh.split(",")]
    sizes = {part[1]: int(part[2]) for part in parts if part}
    if len(sizes) != len(parts) or not all(sizes.values()):
        raise UsageError(
            f'--mesh must be such as "data=8" or "data=4,more=2", got {mesh!r}'
        )
    return sizes


def make_mesh(mesh: str | None = None) -> Mesh:
    """Returns the mesh called `mesh`, see `axes`, of the first devices that it needs.

    Raises:
        UsageError: If there are fewer devices, or if another process's would be unused.
    """
    devices = jax.devices()
    sizes = axes(mesh, len(devices))
    wanted = math.prod(sizes.values())
    if wanted > len(devices) or (jax.process_count() > 1 and wanted != len(devices)):
        raise UsageError(f"--mesh must use the {len(devices)} devices, got {mesh!r}")
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices[:wanted],
    )


def by_rows(mesh: Mesh) -> NamedSharding:
    """Returns how a batch lies: its rows spread over all axes."""
    return NamedSharding(mesh, P(mesh.axis_names))


def whole(mesh: Mesh) -> NamedSharding:
    """Returns how parameters lie: all of them on each device."""
    return NamedSharding(mesh, P())


def check_batch(batch: int, accumulate: int, devices: int) -> None:
    """Refuses a batch that does not spread evenly.

    Raises:
        UsageError: If it does not.
    """
    if batch % (devices * accumulate):
        parts = f" times --accumulate, {accumulate}" if accumulate > 1 else ""
        raise UsageError(
            f"--batch must be a multiple of the {devices} devices{parts}, got {batch}; "
            "--mesh may name fewer"
        )
