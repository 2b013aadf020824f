"""The devices that the suite sees. They are chosen before JAX starts."""

from __future__ import annotations

import os
from typing import Literal

import jax

Platform = Literal["cpu", "gpu", "tpu"]
CPU_DEVICES = 8


def start(platform: str | None) -> str:
    """Makes the CPU look like eight devices, and selects a platform.

    No setting that a number depends on is changed, such as precision or determinism.

    Args:
        platform: "cpu", "gpu" or "tpu". None: the platform that JAX finds.

    Returns:
        The platform that JAX runs on.

    Raises:
        RuntimeError: JAX runs on another platform than `platform`.
    """
    # The processes that `reproducibility` starts need device memory too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
    if platform == "cpu":
        jax.config.update("jax_platforms", platform)
    # JAX prefers an accelerator by itself. If "gpu" is set in its configuration, it
    # requires every kind of GPU that it knows.
    found = jax.default_backend()
    if platform not in (None, found):
        raise RuntimeError(
            f"--platform must be {found}, where JAX runs here, got {platform}"
        )
    return found
