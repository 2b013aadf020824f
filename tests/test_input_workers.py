"""Worker processes end with their parent, whatever ends it, and not before."""

import signal
import sys

import pytest
from processes import PROGRAMS, Process, descendants, end, running, started, wait_for

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="finds processes in /proc"
)
PROGRAM = PROGRAMS / "reads_batches.py"


def workers(parent):
    """Returns the workers, which Python's resource tracker is not one of."""
    return descendants(parent.pid)[1:]


@pytest.mark.parametrize(
    "number, reads",
    [
        (signal.SIGKILL, False),
        pytest.param(signal.SIGKILL, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_all(number, reads):
    """While they start, and while they read."""
    with started(Process(PROGRAM, "forever")) as (parent,):
        wait_for(lambda: workers(parent), parent)
        if reads:
            wait_for(lambda: "read" in parent.output(), parent)
        left = descendants(parent.pid)
        parent.send_signal(number)
        assert parent.wait() == -number
        wait_for(lambda: not any(map(running, left)))


@pytest.mark.slow
def test_workers_leave_signals_to_their_parent():
    """They read on."""
    with started(Process(PROGRAM, "signals")) as (parent,):
        wait_for(lambda: workers(parent), parent)
        left = descendants(parent.pid)
        status, printed = end(parent)
        assert status == 0, printed
        wait_for(lambda: not any(map(running, left)))
