"""VICRegL's local loss in float64 NumPy, and its rounding bounds.

A slot is a batch of pairs, whose loss `oracle.numpy_loss` knows. What is added here is
the matching of arXiv:2210.01571, position by position, and the sums over slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parity.oracle import numpy_loss, rounding_bounds

WEIGHTS = (25.0, 12.5, 0.5)
"""VICRegL's 25, 25, 1, which averages over the two sides of a match."""


class Settings(NamedTuple):
    """What is matched, and in which order; as in `vicreg_jax.local.local_loss`."""

    feature_matches: tuple[int, int] | None = None
    location_matches: tuple[int, int] | None = (20, 4)
    slot_order: str = "raster"
    global_views: int = 2


OFFICIAL = Settings()


class LocalResult(NamedTuple):
    """Terms, total, and the gradient of the total for each map, or bounds on them."""

    invariance: float
    variance: float
    covariance: float
    total: float
    gradients: list[np.ndarray]


class Slot(NamedTuple):
    """One match of every image.

    Attributes:
        source: Index of the view that was matched.
        target: Index of the view that it was matched with.
        chosen: Position of the source, by image.
        found: Position of the target, by image.
        share: Weight of the slot in the loss.
    """

    source: int
    target: int
    chosen: np.ndarray
    found: np.ndarray
    share: float


def match(x, y, k: int | None, slot_order: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the chosen and the found positions, each of shape (batch, k).

    Args:
        x: Points to be matched, shape (batch, positions, any).
        y: Points to match them with.
        k: How many matches are kept; None: all.
        slot_order: "raster" or "distance".
    """
    chosen, found = [], []
    for points, candidates in zip(x, y, strict=True):
        matched = []
        for p, point in enumerate(points):
            squares = np.sum((point - candidates) ** 2, axis=1)
            q = int(np.argmin(squares))
            matched.append((float(squares[q]), p, q))
        kept = sorted(matched)[:k]
        if slot_order == "raster":
            kept.sort(key=lambda entry: entry[1])
        chosen.append([p for _, p, _ in kept])
        found.append([q for _, _, q in kept])
    return np.array(chosen), np.array(found)


def slots(maps: Sequence, positions: Sequence, settings: Settings) -> list[Slot]:
    """Returns the slots of all pairs, both directions and both ways to match."""
    views = range(len(maps))
    pairs = [(i, j) for i in views[: settings.global_views] for j in views if j != i]
    found = []
    for points, limits in (
        (maps, settings.feature_matches),
        (positions, settings.location_matches),
    ):
        flat = [p.reshape(len(p), -1, p.shape[-1]) for p in points]
        for pair in pairs:
            for place, (source, target) in enumerate([pair, pair[::-1]]):
                # The limits belong to the directions of a pair: the first view's
                # matches, then the second's, whether the views are global or local.
                k = None if limits is None else limits[place]
                taken = match(flat[source], flat[target], k, settings.slot_order)
                # The mean over slots, over both directions, and over pairs. Matches by
                # feature and by location are added.
                share = 1 / (2 * len(pairs) * taken[0].shape[1])
                found += [
                    Slot(source, target, chosen, at, share)
                    for chosen, at in zip(taken[0].T, taken[1].T, strict=True)
                ]
    return found


def numpy_local_loss(
    maps, positions, settings=OFFICIAL, weights=WEIGHTS, gamma=1.0, eps=1e-4
) -> LocalResult:
    """Returns everything in float64.

    Args:
        maps: One map a view, shape (batch, height, width, channels).
        positions: Where their positions lie, shape (batch, height, width, 2).
        settings: Settings of the matching.
        weights: `lambd`, `mu` and `nu`.
        gamma: Target standard deviation.
        eps: Added to the variances.
    """
    flat, chosen = _prepared(maps, positions, settings)
    terms, total = np.zeros(3), 0.0
    gradients = [np.zeros_like(x) for x in flat]
    for slot in chosen:
        one = numpy_loss(*_sides(flat, slot), weights, gamma, eps)
        terms += slot.share * np.array(one[:3])
        total += slot.share * one.total
        _spread(gradients, slot, one)
    shaped = [g.reshape(np.shape(x)) for g, x in zip(gradients, maps, strict=True)]
    invariance, variance, covariance = map(float, terms)
    return LocalResult(invariance, variance, covariance, total, shaped)


def local_rounding_bounds(
    maps,
    positions,
    unit,
    settings=OFFICIAL,
    weights=WEIGHTS,
    *,
    gram=None,
) -> LocalResult:
    """Returns how far from `numpy_local_loss` rounding alone can take a result.

    The bounds of each slot by `oracle.rounding_bounds`, and what the sums over slots
    add. A position may be in many of them, so each sum gets the bound of Higham and
    Mary as if it were over all: `8 sqrt(slots) unit`. The other `8 unit` are an
    allowance, not a derivation: beside those sums, a share is rounded, is multiplied
    by the slot's term or gradient, and is added up over both views and both ways to
    match. These are about four roundings, and the allowance is about twice their worst.

    Args:
        maps: As the loss gets them.
        positions: As the loss gets them.
        unit: Roundoff of the dtype that is computed in.
        settings: Settings of the matching.
        weights: `lambd`, `mu` and `nu`.
        gram: As in `oracle.rounding_bounds`.
    """
    flat, chosen = _prepared(maps, positions, settings)
    sums = (8 * np.sqrt(len(chosen)) + 8) * unit
    values = np.zeros(4)
    gradients = [np.zeros_like(x) for x in flat]
    for slot in chosen:
        sides = _sides(flat, slot)
        exact = numpy_loss(*sides, weights)
        bound = rounding_bounds(*sides, unit, weights, gram=gram, exact=exact)
        values += slot.share * (np.array(bound[:4]) + sums * np.abs(exact[:4]))
        wider = (
            b + sums * np.abs(e) for b, e in zip(bound[4:], exact[4:], strict=True)
        )
        dz1, dz2 = wider
        _spread(gradients, slot, exact._replace(dz1=dz1, dz2=dz2))
    shaped = [g.reshape(np.shape(x)) for g, x in zip(gradients, maps, strict=True)]
    invariance, variance, covariance, total = map(float, values)
    return LocalResult(invariance, variance, covariance, total, shaped)


def _prepared(maps, positions, settings):
    wide = [np.asarray(x, np.float64) for x in maps]
    where = [np.asarray(p, np.float64) for p in positions]
    flat = [x.reshape(len(x), -1, x.shape[-1]) for x in wide]
    return flat, slots(wide, where, settings)


def _sides(flat, slot: Slot) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(flat[0]))
    return flat[slot.source][rows, slot.chosen], flat[slot.target][rows, slot.found]


def _spread(gradients, slot: Slot, one) -> None:
    """Adds the gradient of one slot to the positions that it was taken from."""
    for row, (p, q) in enumerate(zip(slot.chosen, slot.found, strict=True)):
        gradients[slot.source][row, p] += slot.share * one.dz1[row]
        gradients[slot.target][row, q] += slot.share * one.dz2[row]
