"""What the processes of a job must agree on before they write or read together.

A process that raised alone would leave the others waiting for it in a collective.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


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
