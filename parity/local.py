"""Section `local`: VICRegL's local loss, on one device and on eight.

The result must be as close to the float64 oracle as PyTorch's plus what rounding can
do, and each entry of a gradient within its own bound, by
`local_oracle.local_rounding_bounds`. PyTorch is our own transcription, or lightly's
released loss with its matches and its order of slots. Inputs are free of ties, which
the frameworks break differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import jax
import numpy as np

from parity import upstream
from parity.cases import Level
from parity.checks import Check, NotRun, Task
from parity.local_cases import LocalCase, catalog
from parity.local_oracle import (
    WEIGHTS,
    LocalResult,
    Settings,
    local_rounding_bounds,
    numpy_local_loss,
)
from parity.local_torch import lightly_loss, torch_local_loss
from parity.modes import DEVICES, MODES
from parity.oracle import Bounds, Result
from parity.ours import Ours, enabled, rounded, wide
from parity.values import HALF, UNITS, Expected


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the section's tasks."""
    for case in catalog(level):
        name = f"local/{case.name}"
        yield Task(name, partial(check_case, name, case, ours, platform))
    for mode in MODES if level >= Level.STANDARD else ():
        name = f"local/{mode}"
        yield Task(name, partial(check_mode, name, mode, ours, platform))


def check_case(
    task: str, case: LocalCase, ours: Ours, platform: str = "cpu"
) -> list[Check]:
    """Returns the verdicts on value and gradients of a case.

    Raises:
        NotRun: The reference is not installed, or the platform has no such dtype.
    """
    if platform == "tpu" and case.dtype == "float64":
        raise NotRun("a TPU has no float64")
    maps, positions = case.views()
    maps = [rounded(x, case.dtype) for x in maps]
    compute = "float32" if case.dtype in HALF else None
    native = _theirs(case, maps, positions, None)
    peer = _theirs(case, maps, positions, compute) if compute else native
    with enabled(case.dtype):
        arrays = [jax.numpy.asarray(x, case.dtype) for x in maps]
        # Positions keep float32 in half precision, where many distances would be ties.
        where = [jax.numpy.asarray(p, compute or case.dtype) for p in positions]
        total, gradients = _program(ours, case.settings)(arrays, where)
        got = _quantities(float(total), map(wide, gradients))
    expected, peer_bounds = _expected(
        task, case, maps, positions, compute or case.dtype
    )
    return expected.checks(got, native, peer, peer_bounds)


def check_mode(task: str, mode: str, ours: Ours, platform: str = "cpu") -> list[Check]:
    """Returns the verdicts on a mode's value and gradients, against the whole batch.

    The modes of `modes` know two views of rows; each row here is a map, channels first,
    which also gives the positions: whatever spreads the rows spreads those alike.

    Raises:
        NotRun: There are too few devices, or they have no float64.
    """
    if platform == "tpu":
        raise NotRun("a TPU has no float64")
    if jax.device_count() < DEVICES and not mode.startswith("vmap"):
        raise NotRun(f"needs {DEVICES} devices, here are {jax.device_count()}")
    case = LocalCase(16, ((3, 3), (3, 3)), 24, Settings(None, (5, 4)))
    maps, _ = case.views()
    rows = [_as_rows(x) for x in maps]

    def loss(z1, z2, *, where=None, axis_name=None):
        # Positions may depend on the maps: the choice of the matches has no gradient.
        views = [_as_map(z, *case.sides[0]) for z in (z1, z2)]
        places = [_places(x, jax.numpy) for x in views]
        options = {"location_matches": (5, 4), "where": where, "axis_name": axis_name}
        return ours.local(*views, *places, *WEIGHTS, **options)

    with enabled("float64"):
        z1, z2 = map(jax.numpy.asarray, rows)
        value, gradients = MODES[mode](z1, z2, None, loss)
        shaped = [_as_map(np.asarray(g), *case.sides[0]) for g in gradients]
        got = _quantities(float(value), shaped)
    positions = [_places(x, np) for x in maps]
    theirs = _theirs(case, maps, positions, None)
    expected, peer_bounds = _expected(task, case, maps, positions, "float64")
    return expected.checks(got, theirs, theirs, peer_bounds)


def _as_rows(x):
    return np.moveaxis(x, 3, 1).reshape(len(x), -1)


def _as_map(z, height, width):
    channels = z.shape[1] // (height * width)
    cells = z.reshape(z.shape[0], channels, height * width)
    return cells.transpose(0, 2, 1).reshape(z.shape[0], height, width, channels)


def _places(x, np_or_jnp):
    """Positions that follow from a map: its first two moments over the channels."""
    return np_or_jnp.stack([x.mean(3), (x**2).mean(3)], axis=-1)


def _expected(task, case, maps, positions, compute) -> tuple[Expected, Bounds]:
    exact = numpy_local_loss(maps, positions, case.settings)
    bound = partial(
        local_rounding_bounds, maps, positions, UNITS[compute], case.settings
    )
    # None: of the product that ours chooses. False: of the d x d one, as in PyTorch.
    bounds = [bound(gram=gram) for gram in (None, False)]
    ours, peer = (Bounds(*found[:4], *found.gradients) for found in bounds)
    whole = Result(*exact[:4], *exact.gradients)
    return Expected(task, case.dtype, whole, ours), peer


def _theirs(case, maps, positions, compute) -> dict:
    if case.reference == "torch":
        settings = (case.settings, case.dtype, compute)
        found = torch_local_loss(maps, positions, *settings)
        return _named(found)
    # lightly computes the global loss too, even if its share is 0.
    unused = [np.eye(case.batch, 2)] * 2
    try:
        total, _, gradients = lightly_loss(unused, maps, positions, 0.0, case.dtype)
    except upstream.NotLoaded as reason:
        raise NotRun(f"lightly: {reason}") from None
    return _quantities(total, gradients)


def _named(found: LocalResult) -> dict:
    return _quantities(found.total, found.gradients)


def _quantities(total, gradients) -> dict:
    dz1, dz2 = gradients
    return {"total": total, "dz1": dz1, "dz2": dz2}


@cache
def _program(ours: Ours, settings: Settings):
    features, locations, order, _ = settings
    options = {
        "feature_matches": features,
        "location_matches": locations,
        "slot_order": order,
    }

    def loss(maps, positions):
        return ours.local(*maps, *positions, *WEIGHTS, **options)

    return jax.jit(jax.value_and_grad(loss))
