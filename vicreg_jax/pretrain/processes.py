"""One run in several processes: connecting, agreeing, and stopping.

A process that raised an error alone would leave the others waiting for it in a
collective, so the processes agree before they write or read together.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Launch


def connect(launch: Launch) -> None:
    """Joins the other processes, where the run is distributed; before all else.

    On TPU pods, Slurm, Kubernetes and under MPI, JAX finds the others by itself.

    Raises:
        UsageError: If no cluster is found and the flags are missing.
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
        raise UsageError(
            "--coordinator, --num-processes and --process-id must be given if no "
            f"cluster is found: {error}"
        ) from error


def wait_for_all(name: str, *, seconds: int = 3600) -> None:
    """Returns when every process has come here; lost ones end it with an error.

    Unlike an exchange between devices, which gives up after half a minute.
    """
    barrier = multihost.get_barrier_sync_fn()
    barrier(key=f"vicreg_jax {name}", timeout_ms=1000 * seconds)


def check_same(what: str, sha256: str) -> None:
    """Compares a checksum over all processes.

    Raises:
        ValueError: In each of them, if it is not the same in all.
    """
    words = np.frombuffer(bytes.fromhex(sha256), np.uint32)
    every = multihost_utils.process_allgather(words).reshape(-1, len(words))
    if (every != every[0]).any():
        raise ValueError(f"{what} must be the same in every process, got others")


def from_first(action: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Returns in every process what `action`, run in the first only, returned.

    Raises:
        OSError: In each of them, if `action` did.
    """
    error, result = None, (-1, -1)
    if jax.process_index() == 0:
        try:
            result = action()
        except OSError as failed:
            error = failed
    first, second = multihost_utils.broadcast_one_to_all(np.array(result, np.int32))
    if first == -1:
        raise error or OSError("the first process could not write; its error says why")
    return int(first), int(second)


def all_of(here: bool) -> bool:
    """Whether it is so in every process."""
    return bool(np.all(multihost_utils.process_allgather(np.array(here))))


class Interrupted(Exception):
    """The run has stopped because it was asked to, and can go on."""


class Interruption:
    """Notes SIGTERM and SIGINT while it is entered; a second one ends the process.

    Where there are several processes JAX notes SIGTERM, of any of them, and says after
    which step all shall stop.
    """

    def __init__(self):
        self._asked = False
        self._before = {}

    def __enter__(self) -> Interruption:
        # Python allows handlers in the main thread alone.
        main = threading.current_thread() is threading.main_thread()
        if main and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self, step: int) -> bool:
        """Returns whether to stop after this step, the same in all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _note(self, number, _frame) -> None:
        self._asked = True
        signal.signal(number, signal.SIG_DFL)
