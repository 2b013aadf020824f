"""Python in processes of its own, the pretraining job above all, and how they end."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, cast

import few_digits
import quick_compilation

from parity.processes import free_address

TINY = [
    *("digits", "--width", "4", "--expander", "16", "--epochs", "3"),
    *("--batch", str(few_digits.BATCH)),
    *("--log-every", "4", "--checkpoint-every", "4", "--probe-every", "0"),
    *("--probe-images", "100", "--no-tensorboard"),
]
# XLA's flags as they were given, without what conftest adds for its own process, and
# without a blank, which would be read as the name of a file.
FLAGS = re.sub(
    r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", "")
).strip()
PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 600  # seconds, of machines that are busy with other things
# The metrics or a checkpoint, whichever fails first. It may stand in a line of its own
# or not, because threads of Orbax print at the same time.
NO_ROOM = "vicreg-pretrain: .*could not be written.*: File too large"


class Process(subprocess.Popen):
    """Python on CPU devices; what it prints is taken from it as it comes.

    A pipe would fill while the test waits for another process, and hold this one up; a
    file would be under the limits that a test sets on files.
    """

    def __init__(self, *arguments, **environment):
        super().__init__(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with cast(TextIO, self.stdout) as printed:
            for line in printed:
                self._lines.append(line)

    def output(self):
        """Returns what it has printed so far, or all of it once it has ended."""
        if self.poll() is not None:
            self._reader.join()
        return "".join(self._lines)


def completed(*arguments, **environment):
    """Runs Python to its end; returns its status and what it printed."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def command(*words, devices=1, **environment):
    """Starts a command of the job."""
    return Process(
        *("-m", "vicreg_jax.pretrain", *words),
        JAX_NUM_CPU_DEVICES=str(devices),
        **compiled_quickly(),
        **environment,
    )


def start(out, *flags, devices=1):
    """Starts the tiny job, or goes on with it."""
    return command(*TINY, "--out", out, *flags, devices=devices)


def of_two():
    """Returns the flags of each of two processes that are one run."""
    shared = ["--distributed", "--num-processes", "2", "--coordinator", free_address()]
    return [[*shared, "--process-id", str(process)] for process in (0, 1)]


def compiled_quickly():
    """Returns the environment in which the tiny job compiles once, and quickly.

    How it ends and goes on does not depend on how it was compiled.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": os.environ["VICREG_JAX_TEST_CACHE"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **quick_compilation.environment(FLAGS),
    }


@contextmanager
def started(*processes):
    """Ends what is still running afterwards."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.output()


def end(process):
    """Waits for the end; returns the status and what was printed."""
    return process.wait(timeout=PATIENCE), process.output()


def wait_for(found, *processes, pause=0.02):
    """Waits until something is found, such as a checkpoint, while processes run.

    It looks again after `pause` seconds, and returns what was found.
    """
    until = time.monotonic() + PATIENCE
    while True:
        # Before looking, as a process may leave something and end right after a look.
        ended = [process for process in processes if process.poll() is not None]
        if value := found():
            return value
        assert not ended, ended[0].output()
        assert time.monotonic() < until, "nothing came"
        time.sleep(pause)


def descendants(pid):
    """Returns the numbers of the processes that a process has started, from /proc."""
    found = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            for child in map(int, listed.read_text().split()):
                found += [child, *descendants(child)]
    return found


def running(pid):
    """Returns whether a process runs, and is not only left for its parent to see."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "XZ"


def checkpoints(out):
    """Returns the steps of the checkpoints that are in place."""
    return sorted(int(path.name) for path in out.glob("checkpoints/????????"))
