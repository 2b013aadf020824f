"""XLA's flags with which the tests compile in a fraction of the time."""

import importlib.metadata

# For programs without most optimizations. With them, the old emitters take longer.
_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_experimental_ynn_fusion_type=",
)


def with_quick_flags(flags):
    """Returns the value of XLA_FLAGS with these added, if this jaxlib has them.

    Another jaxlib may refuse to start with flags that it does not know.
    """
    if not importlib.metadata.version("jaxlib").startswith("0.10."):
        return flags
    found = flags.split()
    return " ".join([*found, *(flag for flag in _FLAGS if flag not in found)])
