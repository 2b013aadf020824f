"""The machine: the threads of both frameworks, and what results depend on."""

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

# By their flags in /proc/cpuinfo, widest first.
_INSTRUCTION_SETS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE"}
# Settings that restrict a framework to an older instruction set.
_RESTRICTIONS = ("XLA_FLAGS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
_PACKAGES = ("vicreg_jax", "jax", "jaxlib", "flax", "torch", "numpy", "libtpu")


def start(threads: int | None) -> int:
    """Sets the number of threads of both frameworks, before JAX starts.

    Where there is no NVIDIA GPU, JAX uses the CPU. Otherwise libtpu, which is installed
    to compile only, would search for chips.

    Args:
        threads: Number of threads. None: one for each core of this process.

    Returns:
        The number of threads.
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
    """Returns versions, hardware and settings, which results depend on."""
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
    """Returns the name of the processor, or its architecture if it has none."""
    return _cpuinfo("model name") or platform.machine()


def instruction_set() -> str:
    """Returns the widest vector instructions, and settings that restrict them.

    XLA and PyTorch do not profit equally from them, so ratios depend on them.
    """
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    widest = next((n for f, n in _INSTRUCTION_SETS.items() if f in flags), "unknown")
    restricted = [
        f"{name}={os.environ[name]}" for name in _RESTRICTIONS if os.environ.get(name)
    ]
    return ", ".join([widest, *restricted])


def _cpuinfo(field: str) -> str:
    """Returns a field of /proc/cpuinfo, or an empty string if there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _cores() -> int:
    # `os.cpu_count` also counts cores that this process may not use.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _commit() -> str:
    # Without any tag `git describe` names the commit itself.
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=here)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
