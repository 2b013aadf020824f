"""Peak memory of this process, as counted by the Linux kernel."""

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
    """Returns whether the kernel's high-water mark of memory can be reset."""
    try:
        reset()
    except OSError:
        return False
    return True


def reset() -> None:
    """Resets the high-water mark to the memory in use now."""
    # See proc(5): 5 resets VmHWM to the present VmRSS.
    (_PROC / "clear_refs").write_text("5")


def release() -> None:
    """Returns freed memory that the C library keeps to the system."""
    gc.collect()
    # glibc has `malloc_trim`, other C libraries of Linux do not.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def of(call: Callable[[], Any]) -> tuple[Any, int]:
    """Returns the result of a call, and the bytes that it added at its peak.

    Freed memory that the C library keeps is returned to the system first. Otherwise the
    call could reuse it, and the peak would miss that.
    """
    release()
    reset()
    before = status("VmRSS")
    result = call()
    return result, status("VmHWM") - before


def status(field: str) -> int:
    """Returns a field of /proc/self/status in bytes."""
    text = (_PROC / "status").read_text()
    found = re.search(rf"^{field}:\s*(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise OSError(f"{_PROC / 'status'} has no {field}")
    # The kernel writes kB and means KiB.
    return int(found[1]) * 1024
