"""Section "values": values and gradients over the catalog.

Both frameworks get the same numbers, rounded to the dtype of the case. The oracle takes
the rounded numbers as exact. A case passes if

- our distance to the oracle is at most `FACTOR` times PyTorch's, plus the bound of
  `oracle.rounding_bounds`,
- the error of each entry of a gradient is within its own bound, and
- PyTorch's distance is within its bound. Otherwise it computes another loss.

In half precision this package computes in float32. There it is compared with PyTorch on
inputs cast to float32, which keeps the limits as tight as in float32. PyTorch's
own half-precision result is shown as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from parity import upstream
from parity.cases import UPSTREAMS, Case, Level, catalog
from parity.checks import FACTOR, Check, NotRun, Task
from parity.oracle import Bounds, Result, numpy_loss, rounding_bounds, stored
from parity.ours import Ours, our_weights, outcome, rounded
from parity.torch_reference import torch_loss, total_and_gradients

HALF = ("bfloat16", "float16")
UNITS = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
}
# At default precision, matrix products round their inputs: to TF32, which may truncate,
# and to bfloat16. Float64 and half-precision inputs are not rounded further.
_DEFAULT_INPUTS = {"gpu": 2.0**-10, "tpu": 2.0**-8}


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the section's tasks: on accelerators each at two precisions."""
    precisions = ["highest"] if platform == "cpu" else ["highest", None]
    for case in catalog(level):
        for precision in precisions:
            name = f"values/{case.name}" + ("" if precision else "-default_precision")
            check = partial(check_case, name, case, ours, precision, platform)
            yield Task(name, check)


def check_case(
    task: str,
    case: Case,
    ours: Ours,
    precision: str | None = "highest",
    platform: str = "cpu",
) -> list[Check]:
    """Returns the verdicts on a case's quantities.

    Raises:
        NotRun: The reference is not installed, or the platform lacks the dtype.
    """
    if platform == "tpu" and case.dtype == "float64":
        raise NotRun("a TPU has no float64")
    z1, z2 = (rounded(z, case.dtype) for z in case.views())
    native = theirs(case, z1, z2, None)
    compute = "float32" if case.dtype in HALF else None
    peer = theirs(case, z1, z2, compute) if compute else native
    weights = our_weights(case)
    exact = numpy_loss(z1, z2, weights, case.gamma, case.eps)
    bound = partial(
        rounding_bounds, z1, z2, UNITS[compute or case.dtype], weights, case.gamma
    )
    bound = partial(bound, case.eps, exact=exact)
    inputs = 0.0 if precision else _DEFAULT_INPUTS[platform]
    got = outcome(ours, case, (z1, z2), precision)._asdict()
    expected = Expected(task, case.dtype, exact, bound(inputs=inputs), case.exact)
    # PyTorch always forms the d x d product.
    return expected.checks(got, native, peer, bound(gram=False))


def theirs(case: Case, z1, z2, compute: str | None) -> dict[str, float | np.ndarray]:
    """Returns the results of the case's reference: all, or the total and gradients."""
    if case.reference == "torch":
        settings = (case.weights, case.gamma, case.eps)
        return torch_loss(z1, z2, *settings, case.dtype, compute)._asdict()
    if case.reference not in UPSTREAMS:
        raise ValueError(
            f"`reference` must be torch or one of {UPSTREAMS}, got {case.reference}"
        )
    try:
        build = upstream.load(case.reference)
    except upstream.NotLoaded as reason:
        raise NotRun(f"{case.reference}: {reason}") from None
    loss = build(*case.weights, case.gamma)
    total, dz1, dz2 = total_and_gradients(loss, z1, z2, case.dtype, compute)
    return {"total": total, "dz1": dz1, "dz2": dz2}


class Expected(NamedTuple):
    """What the results of one computation are compared with.

    Attributes:
        task: Its name.
        dtype: Dtype of the embeddings.
        exact: The oracle's results.
        bounds: Largest errors of ours that rounding explains.
        representable: Whether no number is rounded on the way.
    """

    task: str
    dtype: str
    exact: Result
    bounds: Bounds
    representable: bool = False

    def checks(self, got, native, peer, peer_bounds: Bounds) -> list[Check]:
        """Returns a verdict on every quantity that both frameworks have.

        Args:
            got: Our results by name.
            native: PyTorch's results, in the dtype of the embeddings.
            peer: PyTorch's results, in the arithmetic that ours uses.
            peer_bounds: Largest errors of `peer` that rounding explains.
        """
        names = [name for name in native if name in got]
        return [
            self._check(name, got[name], native[name], peer[name], peer_bounds)
            for name in names
        ]

    def _check(self, name, got, native, peer, peer_bounds) -> Check:
        got, native, peer = map(np.asarray, (got, native, peer))
        want = np.asarray(getattr(self.exact, name))
        worst = np.unravel_index(np.argmax(np.abs(got - want)), want.shape)
        peer_distance = distance(peer, want)
        # Where PyTorch overflows, an infinite limit would let everything pass.
        usable = FACTOR * peer_distance if np.isfinite(peer_distance) else 0.0
        allowed = self._allowed(self.bounds, name, want)
        errors = np.abs(got - want)
        return Check(
            task=self.task,
            quantity=name,
            ours=float(got[worst]),
            theirs=float(native[worst]),
            exact=float(want[worst]),
            unit=UNITS[self.dtype] * float(np.linalg.norm(want)),
            distance=distance(got, want),
            their_distance=distance(native, want),
            limit=usable + float(np.linalg.norm(allowed)),
            peer_distance=peer_distance,
            peer_limit=float(np.linalg.norm(self._allowed(peer_bounds, name, want))),
            entries=_worst(errors, allowed) if want.ndim else 0.0,
            size=self.exact.dz1.size,
            dtype=self.dtype,
        )

    def _allowed(self, bounds: Bounds, name: str, want: np.ndarray) -> np.ndarray:
        """Returns the bound of a quantity, including the rounding of its result."""
        if self.representable:
            return np.zeros_like(want)
        computed = np.asarray(getattr(bounds, name))
        # Values are returned in float32 or wider, and not rounded again.
        if want.ndim == 0:
            return computed
        # What is rounded at the end is an entry that is off by `computed` already.
        return computed + stored(np.abs(want) + computed, jax.numpy.finfo(self.dtype))


def distance(got, want) -> float:
    """Returns the Frobenius norm of the difference."""
    return float(np.linalg.norm(np.asarray(got) - want))


def _worst(errors: np.ndarray, allowed: np.ndarray) -> float:
    """Returns the largest ratio of an entry's error to its own limit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 / 0 is no failure: the exact cases allow no error.
        shares = np.where(errors == 0, 0.0, errors / allowed)
    return float(np.where(np.isnan(shares), np.inf, shares).max())
