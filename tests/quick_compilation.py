"""How the tests compile in a fraction of the time."""

import importlib.metadata
from contextlib import contextmanager
from unittest import mock

import jax

# Compiling in one part makes the same code in 12% less CPU time (the ResNet-18 of
# `parity --quick`, 2026-11-28). Several parts are faster only if a core is idle.
_ONE_PART = "--xla_cpu_parallel_codegen_split_count=1"
# For compiling without most optimizations. In optimized programs the old emitters
# would take longer.
_NO_YNN = "--xla_cpu_experimental_ynn_fusion_type="
_QUICK = _NO_YNN, "--xla_cpu_use_fusion_emitters=false"
# The flags that versions of jaxlib are known to have. It does not start with others.
_KNOWN = {
    "0.8.": {_ONE_PART, *_QUICK},
    "0.10.": {_ONE_PART, *_QUICK},
    "0.12.": {_ONE_PART, _NO_YNN},
}


def environment(flags):
    """Returns the environment in which a process compiles quickly.

    Args:
        flags: Other flags of XLA.
    """
    return {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": with_quick_flags(flags),
    }


def with_quick_flags(flags):
    """Returns a value of XLA_FLAGS with those for compiling without optimizations."""
    return _with(flags, _ONE_PART, *_QUICK)


def in_one_part(flags):
    """Returns a value of XLA_FLAGS with the one for compiling in one part."""
    return _with(flags, _ONE_PART)


def _with(flags, *more):
    version = importlib.metadata.version("jaxlib")
    known = {flag for v in _KNOWN if version.startswith(v) for flag in _KNOWN[v]}
    found = flags.split()
    return " ".join([*found, *(f for f in more if f in known and f not in found)])


@contextmanager
def little_effort():
    """Compiles for TPUs in a tenth to a half of the time.

    Whole steps need as much memory (ResNet-50 on 64 v5e chips: 3.02 GiB either way).
    The chips may exchange more, so budgets of the loss are tested without this.
    """
    efforts = ("jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
    for name in efforts:
        jax.config.update(name, -1.0)
    try:
        yield
    finally:
        for name in efforts:
            jax.config.update(name, 0.0)


@contextmanager
def small_kernels():
    """Compiles for TPUs in 60% of the time.

    A kernel may use 6 MiB of vector memory, not 16 or 32 as is usual, and so has
    shorter code. It changes no FLOPs and no traffic of the 46 programs that the tests
    compile, and memory by at most 1.5%, in 3 of them (libtpu 0.0.42.1, 2026-11-28).
    Users compile without it: with 4 MiB the compiler aborts on some of these programs.
    """
    # Not at the top: conftest.py imports this module before it makes beartype check
    # the signatures of the package.
    from vicreg_jax import aot

    with mock.patch.dict(aot._COUNTABLE, xla_tpu_scoped_vmem_limit_kib="6144"):
        yield


@contextmanager
def most_optimizations(wanted):
    """Compiles with most optimizations, or without them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not wanted)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
