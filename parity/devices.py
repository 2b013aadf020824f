"""Section "devices": the loss on eight devices, compared with one PyTorch process.

Each mode of `modes` runs the loss on the same batch, with its rows on eight devices.
The results are compared with those of the whole batch: with the oracle, within the
bounds of the section "values", and with PyTorch in one process. A masked batch has NaN
in the rows that are masked out, and one device has no valid row. With fewer than eight
devices only the modes that use `vmap` are run.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from parity.cases import Case, Level
from parity.checks import Check, NotRun, Task
from parity.modes import DEVICES, MODES
from parity.oracle import WEIGHTS, Bounds, Result, numpy_loss, rounding_bounds
from parity.ours import Ours, enabled, rounded, wide
from parity.values import HALF, UNITS, Expected, theirs

# n < d / 2, then n < 2 d, then more rows.
_FEW_ROWS, _BETWEEN, _MANY_ROWS = (16, 48), (40, 24), (64, 24)
_BATCHES = {
    Level.QUICK: ((*_FEW_ROWS, "float32", True),),
    Level.STANDARD: (
        (*_FEW_ROWS, "float64", False),
        (*_BETWEEN, "float64", True),
        (*_MANY_ROWS, "float64", True),
        (*_MANY_ROWS, "float32", False),
        (*_FEW_ROWS, "bfloat16", False),
        (*_MANY_ROWS, "float16", False),
    ),
    Level.FULL: (
        (256, 1024, "float32", False),
        (1024, 256, "float32", False),
        (256, 1024, "bfloat16", True),
    ),
}


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the section's tasks."""
    batches = [batch for at in _BATCHES if at <= level for batch in _BATCHES[at]]
    for n, d, dtype, masked in batches:
        for mode in MODES:
            name = f"devices/{mode}-{n}x{d}-{dtype}" + ("-masked" if masked else "")
            case = Case("normal", n, d, dtype)
            check = partial(check_mode, name, mode, case, masked, ours, platform)
            yield Task(name, check)


def check_mode(
    task: str, mode: str, case: Case, masked: bool, ours: Ours, platform: str = "cpu"
) -> list[Check]:
    """Returns the verdicts on the value and the gradients of a mode.

    Raises:
        NotRun: There are too few devices, or they lack the dtype.
    """
    if platform == "tpu" and case.dtype == "float64":
        raise NotRun("a TPU has no float64")
    if jax.device_count() < DEVICES and not mode.startswith("vmap"):
        raise NotRun(f"needs {DEVICES} devices, here are {jax.device_count()}")
    z1, z2 = (rounded(z, case.dtype) for z in case.views())
    where = _mask(case) if masked else None
    rows = np.ones(case.n, bool) if where is None else where
    compute = "float32" if case.dtype in HALF else None
    counted = z1[rows], z2[rows]
    # PyTorch has no mask, so it gets the valid rows alone.
    native = _spread_out(theirs(case, *counted, None), rows)
    peer = _spread_out(theirs(case, *counted, compute), rows) if compute else native
    exact = numpy_loss(*counted)
    bound = partial(rounding_bounds, *counted, UNITS[compute or case.dtype])
    # All rows, masked ones included, decide which product the loss uses.

    def bounds(gram: bool) -> Bounds:
        found = bound(gram=gram, exact=exact)
        return Bounds(**_spread_out(found._asdict(), rows))

    whole = Result(**_spread_out(exact._asdict(), rows))
    expected = Expected(task, case.dtype, whole, bounds(2 * case.n <= case.d))
    got = _outcome(MODES[mode], ours, case, (z1, z2), where)
    # PyTorch always forms the d x d product.
    return expected.checks(got, native, peer, bounds(False))


def _outcome(mode, ours: Ours, case: Case, views, where) -> dict:
    def loss(z1, z2, *, where=None, axis_name=None):
        options = {"where": where, "axis_name": axis_name, "eps": case.eps}
        return ours.loss(z1, z2, *WEIGHTS, case.gamma, **options)

    if where is not None:
        views = [np.where(where[:, None], z, np.nan) for z in views]
    with enabled(case.dtype):
        z1, z2 = (jax.numpy.asarray(z, case.dtype) for z in views)
        mask = None if where is None else jax.numpy.asarray(where)
        value, (dz1, dz2) = mode(z1, z2, mask, loss)
        return {"total": float(value), "dz1": wide(dz1), "dz2": wide(dz2)}


def _mask(case: Case) -> np.ndarray:
    """Returns a mask of valid rows: none on the second device, most on the others."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    mask = rng.random(case.n) < 0.8
    share = case.n // DEVICES
    mask[share : 2 * share] = False
    return mask


def _spread_out(found: dict, rows: np.ndarray) -> dict:
    """Returns results of the valid rows as results of all rows, zero elsewhere."""
    spread = dict(found)
    for name in ("dz1", "dz2"):
        spread[name] = np.zeros((len(rows), found[name].shape[1]))
        spread[name][rows] = found[name]
    return spread
