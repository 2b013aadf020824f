"""Reads batches with a worker process, until it is killed or to an end.

python tests/programs/reads_batches.py forever|signals
"""

import multiprocessing
import os
import signal
import sys

import numpy as np

from vicreg_jax.pretrain.input import Arrays, batches


def forever(reading):
    while True:
        next(reading)
        print("read", flush=True)


def signals(reading):
    """Sends signals to the workers, and reads on."""
    next(reading)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    for _ in range(20):
        next(reading)
    reading.close()


def main():
    """Reads as the argument says."""
    source = Arrays(np.zeros((8, 1, 1, 1), np.uint8), np.zeros(8, np.int32))
    reading = batches(source, batch=2, workers=1)
    {"forever": forever, "signals": signals}[sys.argv[1]](reading)


if __name__ == "__main__":
    main()
