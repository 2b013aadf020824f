"""What makes Grain's worker processes end with their parent, and no earlier.

They are daemons of `multiprocessing`, which ends daemons only when their parent ends in
order. After a signal to the parent they would wait for it forever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from functools import cache
from multiprocessing.util import Finalize


def start(index: int, count: int) -> None:
    """Prepares a worker process, before it reads its first image.

    Args:
        index: Number of the worker, which Grain passes.
        count: Number of all workers.
    """
    del index, count
    # Terminals and some schedulers send signals to all processes of a job. The parent
    # decides whether to stop, and needs images until it has saved its state.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


@cache
def kill_at_exit() -> None:
    """Lets this process kill the workers that are left at its end.

    A Grain iterator that is closed while its workers start forgets some of them. After
    that, `multiprocessing` sends SIGTERM, which they ignore, and waits.
    """
    # 0 comes after Grain's own finalizers, which have 1.
    Finalize(None, _kill_daemons, exitpriority=0)


def _kill_daemons() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _end_with_parent() -> None:
    """Ends this process when its parent ends, also by SIGKILL.

    It waits for a pipe that the parent holds open. PR_SET_PDEATHSIG would not do: it
    follows the thread that started the worker, and that thread of Grain ends early.
    """
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
