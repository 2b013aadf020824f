"""One run in several processes: how they connect, agree and stop.

If one process raised an error alone, the others would wait for it in a collective. So
the processes agree before they write or read together.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Launch

T = TypeVar("T")


def connect(launch: Launch) -> None:
    """Joins the other processes of a distributed run, before JAX starts.

    JAX finds the processes itself on TPU pods, under Slurm, Kubernetes and MPI.

    Raises:
        UsageError: If JAX finds no cluster and the flags do not name the processes.
    """
    # The processes of an earlier run, which was stopped or is finished, stay connected.
    if not launch.distributed or jax.distributed.is_initialized():
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


def wait_for_all(name: str) -> None:
    """Waits up to an hour until all processes have called this with the same name.

    A collective would give up after half a minute. This raises an error only when a
    process is lost.
    """
    barrier = multihost.get_barrier_sync_fn()
    barrier(key=f"vicreg_jax {name}", timeout_ms=3_600_000)


def same(sha256: str) -> bool:
    """Returns whether a checksum, in hexadecimal, is the same in all processes."""
    words = np.frombuffer(bytes.fromhex(sha256), np.uint32)
    every = multihost_utils.process_allgather(words).reshape(-1, len(words))
    return bool((every == every[0]).all())


def together(action: Callable[[], T], failure: type[Exception]) -> T:
    """Runs an action in every process that may fail in some of them.

    Args:
        action: Called without arguments.
        failure: The exception that it may raise.

    Raises:
        Exception: A `failure` in every process, if the action raised one in any.
    """
    # A list, because the result may be None.
    results: list[T] = []
    failed = failure("another process failed; its error says why")
    try:
        results.append(action())
    # Any other exception skips the exchange below. The other processes then wait
    # there until JAX reports this one as lost.
    except failure as error:
        failed = error
    if not np.all(multihost_utils.process_allgather(np.array(bool(results)))):
        raise failed
    return results[0]


def in_first(action: Callable[[], None], name: str) -> None:
    """Runs an action in the first process alone, however long it takes.

    Args:
        action: Called without arguments. It must use no collective.
        name: The name of the action, as for `wait_for_all`.

    Raises:
        Exception: In every process, if the action raised one.
    """
    failed: Exception | None = None
    if jax.process_index() == 0:
        try:
            action()
        # Raised below, in all processes, after the others have stopped to wait.
        except Exception as error:
            failed = error

    def outcome() -> None:
        if failed is not None:
            raise failed

    wait_for_all(name)
    together(outcome, Exception)


def union(names: Iterable[str]) -> set[str]:
    """Returns the names that any process has, in all of them."""
    own = np.frombuffer(json.dumps(sorted(names)).encode(), np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.array(len(own))))
    # Arrays of one length, which the exchange needs.
    padded = np.pad(own, (0, lengths.max() - len(own)))
    texts = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    every = zip(texts, lengths, strict=True)
    return set().union(*(json.loads(text[:end].tobytes()) for text, end in every))


class Interrupted(Exception):
    """The run was asked to stop and has saved its state. It can be resumed."""


class Interruption:
    """Notes SIGTERM and SIGINT within its context. A second signal ends the process.

    With several processes, JAX notes a SIGTERM to any of them and chooses the step
    after which all stop.
    """

    def __init__(self):
        self._asked = False
        self._before = {}

    def __enter__(self) -> Interruption:
        # Python sets signal handlers in the main thread only. With several processes
        # the handler of SIGTERM is JAX's, which one set here would replace.
        main = threading.current_thread() is threading.main_thread()
        if main and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self, step: int) -> bool:
        """Returns whether to stop after this step: the same in all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _note(self, number, _frame) -> None:
        self._asked = True
        signal.signal(number, signal.SIG_DFL)
