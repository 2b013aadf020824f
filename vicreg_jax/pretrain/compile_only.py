"""The whole step, compiled for TPUs that are not here: what it needs of each chip."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from rich.table import Table

from vicreg_jax import aot
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.errors import MissingPackageError, UsageError
from vicreg_jax.pretrain.step import Programs

if TYPE_CHECKING:
    from jax.stages import Lowered

    from vicreg_jax.pretrain.config import Config

# Gigabytes a chip; v4's chip is one device here. https://cloud.google.com/tpu/docs
MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
_EPOCH = 1000  # steps, on which no size depends


def compile_only(config: Config, topology: str, mesh: str | None) -> aot.Report:
    """Compiles one step of a run for TPUs.

    Args:
        config: of the run; its images are not opened.
        topology: generation and shape, such as "v5e:8x8".
        mesh: as for a run.

    Raises:
        UsageError: If there is no such topology, or the step does not fit its chips.
        MissingPackageError: If libtpu is not installed.
    """
    sides = re.fullmatch(r"\w+:(\d+(?:x\d+)*)", topology)
    if sides is None:
        raise UsageError(f"--compile-only must be such as v5e:8x8, got {topology!r}")
    chips = math.prod(int(side) for side in sides[1].split("x"))
    sizes = meshes.axes(mesh, chips)
    meshes.check_batch(config.batch, config.accumulate, chips)
    try:
        grid = aot.mesh(topology, tuple(sizes.values()), tuple(sizes))
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"--compile-only: {error}") from error
    except ValueError as error:
        raise UsageError(
            f"--compile-only {topology}, --mesh {mesh}: {error}"
        ) from error
    try:
        return aot.report_of(lowered(Programs(config, grid, _EPOCH)))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(_advice(config, topology, str(error))) from error


def lowered(programs: Programs) -> Lowered:
    """Returns one step as it is handed to the compiler: shapes alone, no images."""
    config, rows = programs.config, meshes.by_rows(programs.mesh)
    whole = meshes.whole(programs.mesh)
    state = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole),
        jax.eval_shape(programs.start),
    )
    shape = config.batch, config.size, config.size, config.channels
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=rows)
    aspect = jax.ShapeDtypeStruct(shape[:1], jnp.float32, sharding=rows)
    return programs.train.lower(state, images, aspect)


def table(report: aot.Report, topology: str) -> Table:
    """Returns what a chip does in one step, to print."""
    result = Table("per chip and step", topology, title="Compiled, not run")
    needed, has = report.arguments + report.temporaries, memory(topology)
    result.add_row("parameters, optimiser, images", _gib(report.arguments))
    result.add_row("temporaries", _gib(report.temporaries))
    fits = f"{'fits' if has is None or needed <= has else 'does not fit'}"
    result.add_row(
        "memory in all", f"{_gib(needed)} of {_gib(has) if has else '?'}: {fits}"
    )
    result.add_row("operations", f"{report.flops / 1e12:.2f} TFLOP")
    for kind, moved in report.moved.items():
        count = report.collectives[kind]
        result.add_row(f"{kind}, {count} of them", f"{moved / 2**20:.1f} MiB")
    return result


def memory(topology: str) -> float | None:
    """Returns the bytes of memory of a chip, None where unknown."""
    gigabytes = MEMORY.get(topology.partition(":")[0])
    return None if gigabytes is None else gigabytes * 2**30


def _advice(config: Config, topology: str, error: str) -> str:
    """Returns what to change, and the compiler's own figures."""
    reason = error.partition("\n")[0].rpartition("CompileTimeHbmOom: ")[2]
    return (
        f"--compile-only must name chips that hold the step, {topology} does not: "
        f"{reason} Use more chips, --accumulate {2 * config.accumulate} "
        "(more parts need less memory and more time), a "
        f"--batch below {config.batch}, or an --expander below {config.expander}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
