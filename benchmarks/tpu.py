"""The TPU section: the loss compiled by libtpu, without running it.

Figures are for value and gradient of both views, for each chip, at highest precision.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import vicreg_jax
from benchmarks import jax_side
from benchmarks.options import Options
from benchmarks.results import Section, not_run
from benchmarks.sizes import WEIGHTS, Size
from benchmarks.tpu_sheets import sheet
from parity.plain_jax import jax_gathered_loss
from vicreg_jax import aot

PLAIN, OFFICIAL = "plain JAX, d x d", "gather, d x d on every chip"
ONE, TWO = "ours, one axis", "ours, two axes"
# The shapes of meshes with two axes follow the topology.
CHIPS = {
    "v5e": {"2x4": (2, 4), "4x8": (4, 8), "8x16": (8, 16), "16x16": (16, 16)},
    "v5p": {
        "2x2x2": (4, 2),
        "4x4x2": (8, 4),
        "4x4x4": (16, 4),
        "8x8x4": (16, 16),
        "8x8x8": (64, 8),
    },
    "v6e": {"2x4": (2, 4), "4x8": (4, 8), "8x16": (8, 16), "16x16": (16, 16)},
}
_PAPER = Size(2048, 8192)
_POD = ("v5e", "16x16")
_GROWTH = (
    *(Size(n, 8192) for n in (512, 1024, 2048, 4096)),
    *(Size(2048, d) for d in (4096, 16384)),
    Size(65536, 512),
)


class Program(NamedTuple):
    """A program to compile. Its `way` is a key of `_WAYS`."""

    way: str
    size: Size
    dtype: str
    generation: str
    shape: str


def run(options: Options, progress) -> Section:
    """Compiles all ways to compute the loss, for growing chips, rows and columns.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    if not aot.available():
        return not_run("tpu", "libtpu is not installed")
    tables = _tables(options.quick)
    records = {}
    for program in (program for programs in tables.values() for program in programs):
        # The tables share programs, each of which takes seconds to compile.
        if program not in records:
            progress(f"tpu {' '.join(map(str, program))}")
            records[program] = compiled(program)
    sheets = [
        sheet(title, [records[program] for program in programs])
        for title, programs in tables.items()
    ]
    return Section("tpu", list(records.values()), sheets)


def _tables(quick: bool) -> dict[str, list[Program]]:
    """Returns the programs to compile, by the title of their table."""
    if quick:
        small = Size(64, 256)
        chosen = [Program(way, small, "float32", "v5e", "2x4") for way in (ONE, TWO)]
        return {"two small programs": chosen}
    ways = [(way, "float32") for way in _WAYS]
    ways += [(way, "bfloat16") for way in (ONE, TWO)]
    return {
        "ways to compute the loss": [
            # The last shape has the most chips.
            Program(way, _PAPER, dtype, generation, list(shapes)[-1])
            for generation, shapes in CHIPS.items()
            for way, dtype in ways
        ],
        "growth with chips": [
            Program(way, _PAPER, "float32", generation, shape)
            for generation, shapes in CHIPS.items()
            for way in (ONE, TWO)
            for shape in shapes
        ],
        "growth with rows and columns": [
            Program(way, size, "float32", *_POD)
            for way in (PLAIN, ONE, TWO)
            for size in _GROWTH
        ],
    }


def compiled(program: Program) -> dict:
    """Compiles one program and returns its record."""
    grid = CHIPS[program.generation][program.shape]
    record = program._asdict() | {"n": program.size.n, "d": program.size.d}
    record |= {"chips": prod(grid), "grid": grid if program.way == TWO else None}
    try:
        found = _report(program, grid)
    # A program that needs more memory than a chip has does not compile.
    except jax.errors.JaxRuntimeError as error:
        return record | {"missing": str(error).splitlines()[0][:120]}
    return record | {
        "temporaries": found.temporaries,
        "arguments": found.arguments,
        "flops": found.flops,
        "moved": found.moved,
        "moved_total": sum(found.moved.values()),
    }


def _report(program: Program, grid: tuple[int, int]) -> aot.Report:
    axes = ("outer", "inner") if program.way == TWO else ("data",)
    topology = f"{program.generation}:{program.shape}"
    mesh = aot.mesh(topology, grid if program.way == TWO else None, axes)
    sharding = NamedSharding(mesh, P(axes))
    z = jax.ShapeDtypeStruct(program.size, program.dtype, sharding=sharding)
    function, mapped = _WAYS[program.way]
    if mapped:
        function = jax.shard_map(
            partial(function, axes), mesh=mesh, in_specs=P(axes), out_specs=P()
        )
    return aot.report(jax_side.with_gradient(function), z, z)


def _two_axes(axes, z1, z2):
    # With `axis_name`, because the loss divides its product over these axes only if it
    # is given their names.
    return vicreg_jax.vicreg_loss(z1, z2, *WEIGHTS, axis_name=axes)


def _official(axes, z1, z2):
    return jax_gathered_loss(z1, z2, *WEIGHTS, axis_name=axes)


# The function, and whether it runs inside `jax.shard_map`.
_WAYS = {
    PLAIN: (jax_side.plain, False),
    OFFICIAL: (_official, True),
    ONE: (jax_side.ours, False),
    TWO: (_two_axes, True),
}
