"""Prints what a bug report needs: `python -m vicreg_jax`."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import jax

# Versions come from metadata. Importing all of these would take seconds, and a broken
# installation, which is what a report is often about, would end it here.
_PACKAGES = (
    "vicreg_jax",
    *("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "scikit-learn", "torch"),
)


def main() -> None:
    """Prints versions, the machine and JAX's devices."""
    print(f"python {sys.version.split()[0]} on {platform.platform()}")
    for name in _PACKAGES:
        print(f"{name} {_version(name)}")
    devices = jax.devices()
    kind = f"{devices[0].platform} ({devices[0].device_kind})"
    print(f"{_counted(len(devices), 'device', 'devices')}: {kind}")
    print(_counted(jax.process_count(), "process", "processes"))
    # Settings that change the digits of results.
    for setting in ("jax_enable_x64", "jax_default_matmul_precision"):
        print(f"{setting} {getattr(jax.config, setting)}")


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
