"""The GPU section: the loss on JAX's default device, if that is a GPU."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import loss, timing
from benchmarks.options import Options
from benchmarks.place import Place
from benchmarks.results import Section, Sheet, not_run


def run(options: Options, progress) -> Section:
    """Measures the loss on the GPU, and the GPU's highest rates of copies and products.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    device = jax.devices()[0]
    if device.platform != "gpu":
        return not_run("gpu", "JAX sees no GPU")
    place = Place("gpu", "cuda" if _torch_sees_one() else None)
    progress("gpu ceilings")
    ceilings = _ceilings()
    found = loss.run(options, progress, place)
    sheet = Sheet(
        f"Ceilings of {device.device_kind}",
        ["what", "reached"],
        [[what, f"{value:.4g}"] for what, value in ceilings.items()],
    )
    sheets = [s._replace(title=f"GPU: {s.title}") for s in found.sheets]
    return Section("gpu", [ceilings, *found.records], [sheet, *sheets])


def _torch_sees_one() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _ceilings() -> dict[str, float]:
    """Returns the rate of a copy in GB/s and of matrix products in TFLOP/s."""
    # 256 MiB, which no cache of a GPU holds, so that the copy is one of memory.
    x = jnp.ones((8192, 8192), jnp.float32)
    # The identity would not do: JAX returns its argument without a copy.
    copied = _best(jax.jit(lambda x: x + 1), x)
    found = {"copy, GB/s, read and written": 2 * x.nbytes / copied / 1e9}
    for precision in ("default", "highest"):
        product = _best(jax.jit(partial(jnp.matmul, precision=precision)), x, x)
        found[f"matmul, TFLOP/s, {precision}"] = 2 * 8192**3 / product / 1e12
    return found


def _best(program, *args) -> float:
    def call():
        return jax.block_until_ready(program(*args))

    call()
    # The fastest call and not the median, as a ceiling is wanted.
    return min(timing.timed(call) for _ in range(20))
