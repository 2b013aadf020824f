"""What a program needs on TPUs that are not attached: compiled for them, not run.

libtpu (`pip install libtpu`) contains the whole TPU compiler. It reports the memory and
the FLOPs of one chip, and the compiled program shows what moves between chips.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

if TYPE_CHECKING:
    from jax.stages import Compiled, Lowered

# Without these, libtpu queries a metadata server for its chips, and takes a lock that
# stops a second process. With no chip attached there is nothing to protect.
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# With this fusion on, a collective is printed once for each product it is fused with.
_COUNTABLE: dict[str, str | bool] = {"xla_tpu_enable_async_collective_fusion": "false"}
# Both cores of a v4 chip are one device, as in JAX on such a chip.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?(%[\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)", re.MULTILINE
)
# The first number in a dtype is its size in bits: bf16[8,2], s32[], f8e4m3fn[4].
_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\]")


class Report(NamedTuple):
    """The compiler's report for one chip.

    Attributes:
        temporaries: Bytes of memory in addition to arguments and results.
        arguments: Bytes of this chip's part of the arguments.
        flops: Floating-point operations.
        moved: Bytes by kind of collective. The larger side counts: the operand of a
            reduce-scatter, the result of the others.
        collectives: Number of collectives by kind.
        program: The optimized HLO.
    """

    temporaries: int
    arguments: int
    flops: float
    moved: dict[str, int]
    collectives: dict[str, int]
    program: str


def available() -> bool:
    """Returns whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def mesh(
    topology: str,
    shape: Sequence[int] | None = None,
    axis_names: Sequence[str] = ("data",),
    axis_type: AxisType = AxisType.Auto,
) -> Mesh:
    """Returns a mesh over the chips of a topology, which need not be attached.

    Args:
        topology: Generation and shape, such as "v5e:16x16", "v6e:8x8" or "v5p:4x4x4".
        shape: Chips along each axis. None: all along one axis.
        axis_names: A name for each axis.
        axis_type: Auto or Explicit.

    Raises:
        ModuleNotFoundError: If libtpu is not installed.
        ValueError: If the topology is unknown or has another number of chips.
    """
    if not available():
        raise ModuleNotFoundError("compiling for TPUs needs `pip install libtpu`")
    # Before libtpu starts, in the call below. A user's own values stay.
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    options = _OPTIONS.get(topology.split(":")[0], {})
    try:
        chips = topologies.get_topology_desc(
            topology_name=topology, platform="tpu", **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            '`topology` must be known to libtpu, such as "v5e:16x16", '
            f"got {topology!r}: {error}"
        ) from None
    shape = (len(chips),) if shape is None else tuple(shape)
    if prod(shape) != len(chips):
        raise ValueError(
            f"`shape` must use every chip of {topology}, {len(chips)}, got {shape}"
        )
    grid = np.array(chips).reshape(shape)
    return Mesh(grid, tuple(axis_names), axis_types=(axis_type,) * len(shape))


def report(function: Callable, *args: jax.ShapeDtypeStruct) -> Report:
    """Compiles a function for the chips that its arguments are sharded over.

    Args:
        function: The function to compile.
        args: Shapes and dtypes with a sharding over a `mesh`.

    Raises:
        jax.errors.JaxRuntimeError: If it needs more memory than a chip has.
    """
    return report_of(jax.jit(function).lower(*args))


def report_of(lowered: Lowered) -> Report:
    """Returns the report of a program lowered for TPUs."""
    compiled: Compiled = lowered.compile(compiler_options=_COUNTABLE)
    memory, program = compiled.memory_analysis(), compiled.as_text()
    costs = compiled.cost_analysis()
    if memory is None or program is None or costs is None:
        raise RuntimeError("the compiler gave no analysis of the program")
    moved, collectives = traffic(program)
    return Report(
        temporaries=memory.temp_size_in_bytes,
        arguments=memory.argument_size_in_bytes,
        # The key is absent if a program only moves data.
        flops=costs.get("flops", 0.0),
        moved=moved,
        collectives=collectives,
        program=program,
    )


def traffic(program: str) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the bytes and the number of collectives of each kind in an HLO text.

    An instruction in a loop counts once.
    """
    moved, collectives, sizes = Counter(), Counter(), {}
    for name, result, opcode, operands in _INSTRUCTION.findall(program):
        arrays = [_bytes(*found) for found in _ARRAY.findall(result)]
        sizes[name] = sum(arrays)
        # An asynchronous collective is two instructions, `-start` and `-done`, of which
        # only the first is counted.
        kind = opcode.removesuffix("-start")
        if kind not in _COLLECTIVES:
            continue
        collectives[kind] += 1
        if kind == "reduce-scatter":
            moved[kind] += sum(sizes[operand] for operand in _names(operands))
        elif opcode.endswith("-start") and kind != "all-reduce":
            # The result is a tuple of operands, results and a few scalar counters. Only
            # that of `all-reduce-start` is the result alone.
            moved[kind] += sum(arrays) - sum(sizes[o] for o in _names(operands))
        else:
            moved[kind] += sum(arrays)
    return dict(moved), dict(collectives)


def _names(operands: str) -> list[str]:
    return re.findall(r"%[\w.-]+", operands)


def _bytes(dtype: str, bits: str, shape: str) -> int:
    size = 1 if dtype == "pred" else int(bits) // 8
    return size * prod(int(side) for side in shape.split(",") if side)
