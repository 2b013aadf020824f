"""Compiler options of the training step, and the compilation cache of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

# On CPUs jaxlib 0.10 computes convolutions with YNNPACK, whose weight gradients can be
# slower than XLA's own. On an AMD Zen 3 (AVX2) a step of ResNet-18 on 32x32 images took
# 6.5 s with YNNPACK and 3.3 s without. On a Zen 5 (AVX-512) that step takes the same
# time, but the mnist recipe's takes 1.2 to 1.45 times as long with YNNPACK.
# `python -m benchmarks --sections step` measures both.
_WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}


# LLVM's level for the initial state and for the embeddings of the quick checks. These
# programs run once or a few times, so compiling them takes most of their time: for the
# mnist recipe's state 2.9 instead of 7.5 CPU seconds and for its embeddings 3.7 instead
# of 6.6, for the state of ResNet-50 with its expander 10 instead of 23 (Zen 3). At
# level 0 the random numbers themselves would take long, and would be rounded
# differently.
_RUN_SELDOM = {"xla_backend_optimization_level": 1}


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns the compiler options of a training step on the devices of `mesh`."""
    if not _on_cpu(mesh):
        return {}
    return _WITHOUT_YNNPACK if _exist(*_WITHOUT_YNNPACK.items()) else {}


def options_to_run_seldom(mesh: Mesh) -> dict[str, int]:
    """Returns the compiler options of a program that seldom runs on these devices."""
    # JAX_DISABLE_MOST_OPTIMIZATIONS asks for less than level 1.
    lower = jax.config.read("jax_disable_most_optimizations")
    return _RUN_SELDOM if _on_cpu(mesh) and not lower else {}


def _on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


@cache
def _exist(*options: tuple[str, str]) -> bool:
    """Returns whether this jaxlib has these options of the CPU compiler.

    They are experimental. A later jaxlib may drop them, and it would then refuse to
    compile.
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
def kept_in(directory: Path) -> Iterator[None]:
    """Stores compiled programs in a directory, for the next process of the same run.

    A cache directory that the user has configured, for example by
    JAX_COMPILATION_CACHE_DIR, stays in use. If a process was killed while it wrote an
    entry, JAX warns and compiles that program again.
    """
    # By default JAX stores only programs that took a second to compile. Nearly all
    # programs of a small run take less.
    changes = {
        "jax_compilation_cache_dir": str(directory),
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
    # JAX opens the cache directory once, and uses it until it is reset.
    compilation_cache.reset_cache()
