"""Starts the pretraining job in processes of its own, and ends what is left of them."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

TINY = [
    *("digits", "--width", "4", "--expander", "16", "--epochs", "3"),
    *("--log-every", "4", "--checkpoint-every", "4", "--probe-every", "0"),
    *("--probe-images", "100", "--no-tensorboard"),
]
# A program is compiled once for all processes that run it.
_CACHE = tempfile.TemporaryDirectory()
PATIENCE = 600  # seconds, of machines that are busy with other things


def start(out, *flags, devices=1):
    """Starts the tiny job, or goes on with it."""
    command = [sys.executable, "-m", "vicreg_jax.pretrain", *TINY, "--out", str(out)]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": _CACHE.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [*command, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def started(*processes):
    """Ends what is still running afterwards."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def end(process):
    """Waits for the end; returns the status and what was printed."""
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def wait_for(found, *processes):
    """Waits until something is found, such as a checkpoint, while processes run."""
    until = time.monotonic() + PATIENCE
    while not found():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.02)


def checkpoints(out):
    """Returns the steps of the checkpoints that are in place."""
    return sorted(int(path.name) for path in out.glob("checkpoints/????????"))
