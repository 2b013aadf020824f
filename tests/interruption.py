"""A run of `processes` that is interrupted between its first and last steps."""

import signal
from contextlib import suppress

from processes import checkpoints, end, started, wait_for
from reference_run import STEPS

_ATTEMPTS = 5


def interrupted(directory, begin, interrupt):
    """Returns the directory of an interrupted run, and how its processes ended.

    On a busy machine a run can end before the interruption reaches it. Then another
    one is started. If all of them end, the last one is returned.

    Args:
        directory: For the directories of the runs.
        begin: Takes a directory, and returns the processes that it has started.
        interrupt: Takes the processes once there is a checkpoint.

    Returns:
        The directory, and a list of each process's status and output.
    """
    for attempt in range(_ATTEMPTS):
        out = directory / f"run-{attempt}"
        with started(*begin(out)) as processes:
            wait_for(lambda out=out: checkpoints(out), *processes)
            with suppress(ProcessLookupError):
                interrupt(processes)
            ended = [end(process) for process in processes]
        if checkpoints(out)[-1] < STEPS:
            break
    return out, ended


def tell_to_stop(processes):
    """Sends SIGTERM to the last process, from which others of its run learn of it."""
    processes[-1].send_signal(signal.SIGTERM)
