"""Fills a pipe, logs a step of a run, and ends as a stopped run does."""

import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    sys.stderr.write("x" * 2**20)
    run = Path(sys.argv[-1])
    run.mkdir()
    (run / "metrics.jsonl").write_text("{}\n")
    time.sleep(60)
