"""Peak memory of this process, by the kernel's own account (Linux)."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PROC = Path("/proc/self")


def available() -> bool:
    """Returns whether the kernel keeps a high-water mark that can be set back."""
    try:
        reset()
    except OSError:
        return False
    return True


def reset() -> None:
    """Sets the high-water mark to what is held now."""
    (_PROC / "clear_refs").write_text("5")


def release() -> None:
    """Hands freed memory that the C library keeps for later back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def of(call: Callable[[], Any]) -> tuple[Any, int]:
    """Returns what a call returns, and how many bytes it added at its peak.

    Freed memory that the C library keeps for later would hide what is taken from it,
    so it is handed back first.
    """
    release()
    reset()
    before = status("VmRSS")
    result = call()
    return result, status("VmHWM") - before


def status(field: str) -> int:
    """Returns a field of the process's status in bytes."""
    text = (_PROC / "status").read_text()
    found = re.search(rf"^{field}:\s*(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise OSError(f"{_PROC / 'status'} has no {field}")
    return int(found[1]) * 1024
