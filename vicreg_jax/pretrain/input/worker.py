"""What makes Grain's worker processes end with their parent, and no earlier.

They are daemons of `multiprocessing`, which ends daemons only when their parent ends in
order. After a signal to the parent they would wait for it forever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def start(index: int, count: int) -> None:
    """Prepares a worker process before its first image. Grain passes both numbers."""
    del index, count
    # Terminals and some schedulers send signals to all processes of a job. The parent
    # decides whether to stop, and needs images until it has saved its state. Grain
    # stops workers by an event, and by SIGKILL if they do not react.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent ends, also by SIGKILL.

    It waits for a pipe that the parent holds open. PR_SET_PDEATHSIG would not do: it
    follows the thread that started the worker, and that thread of Grain ends early.
    """
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
