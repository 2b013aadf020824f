"""Comparisons of named arrays: those of our run, of PyTorch's and of an exact one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from parity.checks import Check
from parity.values import UNITS, distance

Arrays = dict[str, np.ndarray]
Distances = dict[str, float]


class Reference(NamedTuple):
    """What our arrays are compared with, each part by name.

    Attributes:
        theirs: PyTorch's arrays.
        exact: PyTorch's arrays in float64.
        limits: Limits of the distance of ours to PyTorch's.
    """

    theirs: Arrays
    exact: Arrays
    limits: Distances


def compared(
    task: str,
    got: Arrays,
    reference: Reference,
    dtype: str,
    peer_limits: Mapping[str, float] | None = None,
) -> list[Check]:
    """Returns a verdict on each array.

    Args:
        task: Its name.
        got: Our arrays.
        reference: What they are compared with.
        dtype: Dtype that both were computed in.
        peer_limits: Limits of the distance of PyTorch's arrays to the exact ones. None:
            there are none.

    Raises:
        RuntimeError: The names of our arrays are not those of PyTorch's.
    """
    theirs, exact, limits = reference
    # A parameter that only one side has would otherwise go unseen.
    if got.keys() != theirs.keys():
        raise RuntimeError(f"names differ: {sorted(got.keys() ^ theirs.keys())}")
    checks = []
    for name, value in got.items():
        peer_limit = peer_limits[name] if peer_limits else math.inf
        sides = value.ravel(), theirs[name].ravel(), exact[name].ravel()
        checks.append(_compared(task, name, sides, limits[name], peer_limit, dtype))
    return checks


def _compared(task, quantity, sides, limit, peer_limit, dtype) -> Check:
    got, theirs, exact = sides
    # `argmax` takes a NaN for the largest, so the report shows it.
    worst = int(np.argmax(np.abs(got - theirs)))
    peer_distance = distance(theirs, exact)
    return Check(
        task=task,
        quantity=quantity,
        ours=float(got[worst]),
        theirs=float(theirs[worst]),
        exact=float(exact[worst]),
        unit=UNITS[dtype] * norm(exact),
        distance=distance(got, theirs),
        their_distance=peer_distance,
        limit=limit,
        peer_distance=peer_distance,
        peer_limit=peer_limit,
        dtype=dtype,
    )


def distances(first: Arrays, second: Arrays) -> Distances:
    """Returns how far apart the arrays of two runs are."""
    return {name: distance(first[name], second[name]) for name in first}


def largest_distances(base: Arrays, others: Iterable[Arrays]) -> Distances:
    """Returns how far each array of some other runs is from `base` at most."""
    found = [distances(base, other) for other in others]
    return {name: max(one[name] for one in found) for name in base}


def norm(x: np.ndarray) -> float:
    """Returns the Frobenius norm."""
    return float(np.linalg.norm(x))
