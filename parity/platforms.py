"""Which devices the suite sees; to be said before JAX has looked for any."""

from __future__ import annotations

import os
from typing import Literal

import jax

Platform = Literal["cpu", "gpu", "tpu"]
CPU_DEVICES = 8


def start(platform: str | None) -> str:
    """Makes the CPU look like eight devices, and takes a platform if one is named.

    Nothing is changed that a number depends on: no precision, no determinism.

    Returns:
        The platform that JAX runs on.

    Raises:
        RuntimeError: there is no such platform here.
    """
    # The processes that `reproducibility` starts need memory on the device as well.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
    if platform == "cpu":
        jax.config.update("jax_platforms", platform)
    # JAX prefers an accelerator. Asked for "gpu" by name, it also wants each kind of
    # GPU that it knows of to be there.
    found = jax.default_backend()
    if platform not in (None, found):
        raise RuntimeError(f"`platform` is {platform}, but JAX runs on {found} here")
    return found
