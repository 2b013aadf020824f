"""Runs new Python processes that each print one line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Makes malloc map blocks of 64 KiB and more one by one and unmap them when freed, so
# that the resident memory is the memory in use.
_EXACT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def run(*arguments: str, exact_malloc: bool = False, timeout: float = 600) -> Any:
    """Runs `python ARGUMENTS` and returns the last line of its output, read as JSON.

    Raises:
        RuntimeError: The process failed or took too long.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if exact_malloc:
        environment |= _EXACT_MALLOC
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took longer than {timeout:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"exit status {done.returncode}: {last[:200]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
