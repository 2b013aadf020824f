"""Several processes, one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
from orbax.checkpoint import multihost

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Launch


def connect(launch: Launch) -> None:
    """Joins the other processes, where the run is distributed; before all else.

    On TPU pods, Slurm, Kubernetes and under MPI, JAX finds the others by itself.

    Raises:
        ValueError: it does not, and was not told.
    """
    if not launch.distributed:
        return
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.num_processes,
            launch.process_id,
            heartbeat_timeout_seconds=launch.heartbeat,
        )
    except ValueError as error:
        raise ValueError(
            "`coordinator`, `num_processes` and `process_id` must be given where no "
            f"cluster is found: {error}"
        ) from error


def wait_for_all(name: str, *, seconds: int = 3600) -> None:
    """Returns when every process has come here; lost ones end it with an error.

    Unlike an exchange between devices, which gives up after half a minute.
    """
    barrier = multihost.get_barrier_sync_fn()
    barrier(key=f"vicreg_jax {name}", timeout_ms=1000 * seconds)
