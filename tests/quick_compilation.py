"""How the tests compile in a fraction of the time."""

import importlib.metadata
from contextlib import contextmanager

import jax

# For compiling without most optimizations. In optimized programs the old emitters
# would take longer.
_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_experimental_ynn_fusion_type=",
)
_KNOWN = ("0.8.", "0.10.")  # versions of jaxlib that are known to have them


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
    """Returns the value of XLA_FLAGS with these added, if this jaxlib has them.

    jaxlib does not start with flags that it does not know. 0.12 lacks the first one.
    """
    if not importlib.metadata.version("jaxlib").startswith(_KNOWN):
        return flags
    found = flags.split()
    return " ".join([*found, *(flag for flag in _FLAGS if flag not in found)])


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
def most_optimizations(wanted):
    """Compiles with most optimizations, or without them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not wanted)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
