"""How the programs of a run are compiled: options, and a cache of what was compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

# jaxlib 0.10 sends convolutions on CPUs to YNNPACK, whose gradient with respect to the
# weights can be slower than XLA's own. On an AMD Zen 3 (AVX2) a step of ResNet-18 on
# 32x32 images took 10.5 s with it and 6.5 s without. On a Zen 5 (AVX-512) it makes no
# difference there, and the mnist recipe's step takes 1.45 times as long with it.
# `python -m benchmarks --sections step` measures both.
_WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns the options that a training step on these devices is compiled with."""
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return _WITHOUT_YNNPACK if _exist(*_WITHOUT_YNNPACK.items()) else {}


@cache
def _exist(*options: tuple[str, str]) -> bool:
    """Returns whether this jaxlib has these options of the CPU compiler.

    They are experimental: a jaxlib that has dropped one refuses to compile with it.
    """
    program = jax.jit(lambda: 0).trace().lower(lowering_platforms=("cpu",))
    try:
        program.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keeps what is compiled in a folder, so that the next process need not compile it.

    A cache that the user has named, by JAX_COMPILATION_CACHE_DIR for one, stays in use.
    An entry that a kill cut short is compiled again, with a warning of JAX's.
    """
    # Nearly all of a small run's programs compile in less than JAX's least second.
    changes = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in changes}
    if before["jax_compilation_cache_dir"] is not None:
        yield
        return
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(settings: dict) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    # JAX opens its cache once, wherever it was to be at that time.
    compilation_cache.reset_cache()
