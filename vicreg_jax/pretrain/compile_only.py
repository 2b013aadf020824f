"""Compiles the training step for TPUs that are not attached, and reports its needs."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import jax
from rich.table import Table

from vicreg_jax import aot
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.arguments import arguments
from vicreg_jax.pretrain.classifier import Classifier
from vicreg_jax.pretrain.classifier_config import ClassifierConfig
from vicreg_jax.pretrain.errors import MissingPackageError, UsageError
from vicreg_jax.pretrain.step import Programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax.sharding import Mesh
    from jax.stages import Lowered

    from vicreg_jax.pretrain.config import Config

# Gigabytes of each chip, from https://cloud.google.com/tpu/docs. On v4 a chip is one
# device here.
MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
# What accelerator types such as v5litepod-64 count: the generation, the sides of its
# grid, and the numbers of a chip. v4 and v5p count cores.
_TYPES = {
    "v5litepod": ("v5e", 2, 1),
    "v6e": ("v6e", 2, 1),
    "v4": ("v4", 3, 2),
    "v5p": ("v5p", 3, 2),
}
_LEAST = 4  # chips; libtpu knows no smaller topology
_EPOCH = 1000  # steps; any number gives the same program sizes
_CLASSES = 1000  # of a classifier, if --classes does not say


def compile_only(
    config: Config,
    topology: str,
    mesh: str | None,
    *,
    model: Any = None,
    notify: Callable[[str], None] | None = None,
) -> aot.Report:
    """Compiles one training step for TPUs.

    Args:
        config: Configuration of the run, whose images are not opened.
        topology: TPU generation and shape, such as "v5e:8x8", or an accelerator type,
            such as "v5litepod-64".
        mesh: Devices by axis; see `vicreg_jax.pretrain.mesh.axes`.
        model: The encoder of a classifier, whose settings `config` then has.
        notify: Called with a sentence before the compiler starts.

    Raises:
        UsageError: If there is no such topology, or the step does not fit its chips.
        MissingPackageError: If libtpu is not installed.
    """
    shape = _shape(topology)
    sides = re.fullmatch(r"\w+:(\d+(?:x\d+)*)", shape)
    if sides is None:
        raise UsageError(
            f"--compile-only must be such as v5e:8x8 or v5litepod-64, got {topology!r}"
        )
    chips = math.prod(int(side) for side in sides[1].split("x"))
    sizes = meshes.axes(mesh, chips)
    meshes.check_batch(config.batch, config.accumulate, chips)
    try:
        grid = aot.mesh(shape, tuple(sizes.values()), tuple(sizes))
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"--compile-only: {error}") from error
    except ValueError as error:
        raise UsageError(
            f"--compile-only {topology}, --mesh {mesh}: {error}"
        ) from error
    if notify is not None:
        notify(f"Compiling a training step for {topology}")
    try:
        return aot.report_of(lowered(_programs(config, grid, model)))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(_advice(config, topology, str(error))) from error


def _shape(topology: str) -> str:
    """Returns the generation and shape of an accelerator type, the squarest it has.

    Anything else is returned as it is.
    """
    kind, _, number = topology.partition("-")
    if kind not in _TYPES or not number.isdecimal():
        return topology
    generation, dimensions, per_chip = _TYPES[kind]
    chips, rest = divmod(int(number), per_chip)
    if rest or chips < _LEAST or chips.bit_count() != 1:
        return topology
    doublings = chips.bit_length() - 1
    sides = [2 ** ((doublings + i) // dimensions) for i in range(dimensions)]
    # Four chips are 2x2x1 to libtpu.
    sides.sort(key=lambda side: (side == 1, side))
    return f"{generation}:{'x'.join(map(str, sides))}"


def _programs(config: Config, grid: Mesh, model: Any) -> Programs:
    if not isinstance(config, ClassifierConfig):
        return Programs(config, grid, _EPOCH)
    # Any share would do. It decides the rates, on which no size depends.
    config = config.resolved(classes=_CLASSES, share=1.0)
    return Classifier(config, grid, _EPOCH, model=model)


def lowered(programs: Programs) -> Lowered:
    """Returns one training step, lowered from the shapes of its arguments."""
    return programs.train.lower(*arguments(programs))


def table(report: aot.Report, topology: str) -> Table:
    """Returns the needs of one step on one chip as a table to print."""
    result = Table("per chip and step", topology, title="Compiled, not run")
    needed, has = report.arguments + report.temporaries, memory(topology)
    result.add_row("parameters, optimizer, images", _gib(report.arguments))
    result.add_row("temporaries", _gib(report.temporaries))
    fits = "fits" if has is None or needed <= has else "does not fit"
    result.add_row(
        "total memory", f"{_gib(needed)} of {_gib(has) if has else '?'}: {fits}"
    )
    result.add_row("operations", f"{report.flops / 1e12:.2f} TFLOP")
    for kind, moved in report.moved.items():
        count = report.collectives[kind]
        result.add_row(f"{kind} ({count})", f"{moved / 2**20:.1f} MiB")
    return result


def memory(topology: str) -> float | None:
    """Returns the memory of a chip in bytes, or None if it is unknown."""
    gigabytes = MEMORY.get(_shape(topology).partition(":")[0])
    return None if gigabytes is None else gigabytes * 2**30


def _advice(config: Config, topology: str, error: str) -> str:
    """Returns the compiler's figures and which settings need less memory."""
    reason = error.partition("\n")[0].rpartition("CompileTimeHbmOom: ")[2]
    refused = (
        "--compile-only must name chips with enough memory for the step, got "
        f"{topology}: {reason}"
    )
    if isinstance(config, ClassifierConfig):
        return f"{refused} Use more chips, or a --batch below {config.batch}"
    return (
        f"{refused} Use more chips, --accumulate {2 * config.accumulate} "
        "(more parts need less memory and more time), a "
        f"--batch below {config.batch}, or an --expander below {config.expander}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
