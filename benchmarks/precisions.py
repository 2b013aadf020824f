"""Time and error of the loss for each precision of its matrix products."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from jax.lax import DotAlgorithmPreset, Precision

from benchmarks import jax_side, timing
from benchmarks.options import Options
from benchmarks.results import Section, Sheet, spread
from benchmarks.sizes import WEIGHTS, Problem
from benchmarks.timing import Spread
from parity.oracle import Result, numpy_loss
from vicreg_jax import vicreg_loss

HIGHEST = "highest"
PRECISIONS = {precision.name.lower(): precision for precision in Precision} | {
    preset.name: preset
    for preset in (
        DotAlgorithmPreset.TF32_TF32_F32,
        DotAlgorithmPreset.TF32_TF32_F32_X3,
        DotAlgorithmPreset.BF16_BF16_F32_X3,
        DotAlgorithmPreset.BF16_BF16_F32_X6,
    )
}


def run(options: Options, progress) -> Section:
    """Measures every precision at each size, in float32, on JAX's default device.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    device = jax.devices()[0]
    found = []
    for size in options.precision_sizes():
        problem = Problem(size, "float32")
        found += _of_size(problem, options, device.platform, progress)
    return Section("precisions", found, [_sheet(found, device.device_kind)])


def _sheet(found: list[dict], device: str) -> Sheet:
    rows = []
    for record in found:
        over = record["times_highest"]
        rows.append(
            [
                record["size"],
                record["precision"],
                spread(record["seconds"]) if over else record["missing"],
                "{median:.2f} ({low:.2f}-{high:.2f})".format(**over) if over else "",
                *(f"{record[what]:.1e}" for what in ("value", "gradient") if over),
            ]
        )
        rows[-1] += [""] * (6 - len(rows[-1]))
    headings = ["size", "precision", "median (quartiles)", "times highest"]
    return Sheet(
        f"Precision of the matrix products on {device}, float32",
        [*headings, "error of the value", "of the gradient"],
        rows,
        [
            "value and gradient of both views; errors are relative to float64, of the "
            "gradient in the Euclidean norm",
            "highest is the default of `vicreg_loss`; presets are those of "
            "`jax.lax.DotAlgorithmPreset`",
        ],
    )


def _of_size(problem: Problem, options: Options, platform: str, progress) -> list[dict]:
    # The views are float32 numbers, so the errors are those of the computation alone.
    exact = numpy_loss(*problem.views(), WEIGHTS)
    calls, estimates, errors, missing = {}, {}, {}, {}
    for name, precision in PRECISIONS.items():
        progress(f"precisions {problem} {name}")
        loss = partial(_loss, precision=precision)
        try:
            program, views = jax_side.compiled(
                jax_side.with_gradient(loss), problem, platform
            )
            call = partial(_called, program, views)
            found, estimates[name] = timing.warmed_up(call)
        # Backends refuse the algorithms that they lack, each by an error of its own.
        except (NotImplementedError, ValueError, jax.errors.JaxRuntimeError) as error:
            missing[name] = f"not here: {type(error).__name__}"
            continue
        calls[name], errors[name] = call, _errors(found, exact)
    times = timing.interleaved(calls, estimates, options.budget)
    return [
        {"size": str(problem.size), "precision": name}
        | {"seconds": None, "times_highest": None, "missing": missing.get(name)}
        | (_figures(times, name) | errors[name] if name in times else {})
        for name in PRECISIONS
    ]


def _loss(z1, z2, *, precision):
    return vicreg_loss(z1, z2, *WEIGHTS, precision=precision)


def _called(program, views):
    return jax.block_until_ready(program(*views))


def _figures(times: dict, name: str) -> dict:
    over = timing.ratio(times[name], times[HIGHEST])
    return {
        "seconds": Spread.of(times[name].values())._asdict(),
        "times_highest": over._asdict() if over else None,
    }


def _errors(found, exact: Result) -> dict[str, float]:
    value, gradients = found
    wanted = np.stack([exact.dz1, exact.dz2])
    off = np.stack([np.asarray(dz, np.float64) for dz in gradients]) - wanted
    return {
        "value": abs(float(value) - exact.total) / exact.total,
        "gradient": float(np.linalg.norm(off) / np.linalg.norm(wanted)),
    }
