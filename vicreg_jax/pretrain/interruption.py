"""A request to stop: noted when it comes, heeded between two steps."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils


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
