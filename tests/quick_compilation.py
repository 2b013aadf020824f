"""XLA's flags with which the tests compile in a fraction of the time."""

import importlib.metadata

# For compiling without most optimizations. In optimized programs the old emitters
# would take longer.
_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_experimental_ynn_fusion_type=",
)
_KNOWN = ("0.8.", "0.10.")  # versions of jaxlib that are known to have them


def with_quick_flags(flags):
    """Returns the value of XLA_FLAGS with these added, if this jaxlib has them.

    jaxlib does not start with flags that it does not know. 0.12 lacks the first one.
    """
    if not importlib.metadata.version("jaxlib").startswith(_KNOWN):
        return flags
    found = flags.split()
    return " ".join([*found, *(flag for flag in _FLAGS if flag not in found)])
