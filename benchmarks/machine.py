"""The machine: how many threads both frameworks get, and what a figure comes with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import time
from pathlib import Path

import jax

# By the flags of /proc/cpuinfo, the widest first.
_INSTRUCTION_SETS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE"}
# What holds a framework to an older set than the processor has.
_HELD = ("XLA_FLAGS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
_PACKAGES = ("vicreg_jax", "jax", "jaxlib", "flax", "torch", "numpy", "libtpu")


def start(threads: int | None) -> int:
    """Gives both frameworks as many threads; to be called before JAX has started.

    Where there is no NVIDIA GPU, JAX is told not to look for accelerators: libtpu,
    which is here to compile, would otherwise be searched for chips.

    Args:
        threads: wanted; None: one for each core that this process may use.

    Returns:
        How many there are.
    """
    if threads is None:
        threads = _cores()
    os.environ["NPROC"] = str(threads)  # XLA's name for it
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if not Path("/dev/nvidiactl").exists():
        jax.config.update("jax_platforms", "cpu")
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
    return threads


def about(threads: int) -> dict[str, str]:
    """Returns what a figure depends on beside the code."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{processor()}, {_cores()} cores, {platform.system()}",
        "instruction set": instruction_set(),
        "threads": f"{threads} in each framework",
        "load before": load,
        "commit": _commit(),
        "Python": platform.python_version(),
        **versions,
    }


def processor() -> str:
    """Returns the processor's name, as far as the system tells."""
    return _cpuinfo("model name") or platform.machine()


def instruction_set() -> str:
    """Returns the widest vector instructions, which ratios between libraries turn on.

    XLA and PyTorch do not profit from them alike. Settings that hold either to an older
    set are named as well.
    """
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    widest = next((n for f, n in _INSTRUCTION_SETS.items() if f in flags), "unknown")
    held = [f"{name}={os.environ[name]}" for name in _HELD if os.environ.get(name)]
    return ", ".join([widest, *held])


def _cpuinfo(field: str) -> str:
    """Returns a field of the first processor, empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=here)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
