"""Fresh processes: each measures one thing and prints one line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Arrays of 64 KiB and more are mapped one by one and unmapped when freed, so that what
# is resident is what is held.
_EXACT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def run(*arguments: str, exact_malloc: bool = False, timeout: float = 600) -> Any:
    """Returns what `python ARGUMENTS` prints, read as JSON.

    Raises:
        RuntimeError: it failed; with the end of what it said.
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
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise RuntimeError(f"exit status {done.returncode}: {said[:200]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
