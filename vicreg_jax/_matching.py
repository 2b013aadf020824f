"""Which positions of one feature map VICRegL compares with which of another.

Everything here is decided image by image and never differentiated. A choice is written
as an array of zeros and ones, so that taking the chosen positions is a matrix product:
unlike a gather, it runs over sharded images on any mesh, and its gradient adds in the
same order on every run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

SlotOrder: TypeAlias = Literal["raster", "distance"]
Matches: TypeAlias = tuple[int, int] | None


class Matching(NamedTuple):
    """The settings of a matching.

    Attributes:
        feature_matches: Number of matches by feature, of the first and of the second
            view of a pair; None: all positions.
        location_matches: The same for matches by location.
        slot_order: "raster" or "distance".
        clamp_matches: Whether a map with fewer positions takes part with all of them.
        global_views: Number of leading views that are paired with every other view.
    """

    feature_matches: Matches
    location_matches: Matches
    slot_order: SlotOrder
    clamp_matches: bool
    global_views: int


class Match(NamedTuple):
    """Positions of one view, each with the position it is compared with in another.

    Attributes:
        source: Index of the view whose positions were matched.
        target: Index of the view in which their nearest positions were found.
        chosen: One where a slot holds a position of the source; None: every position
            of the source, in raster order.
        found: One where a slot holds a position of the target.
        weights: Share of each slot in the loss.
    """

    source: int
    target: int
    chosen: Bool[Array, "batch slots positions"] | None
    found: Bool[Array, "batch slots candidates"]
    weights: np.ndarray


def matches(
    maps: Sequence[Float[Array, "batch _ channels"]],
    positions: Sequence[Float[Array, "batch _ 2"]],
    matching: Matching,
) -> list[Match]:
    """Returns all matches of some views, by feature and by location."""
    sizes = [x.shape[1] for x in maps]
    return [
        match
        for points, limits in (
            (maps, matching.feature_matches),
            (positions, matching.location_matches),
        )
        for match in _matches(points, shares(sizes, limits, matching), matching)
    ]


def shares(
    sizes: Sequence[int], limits: Matches, matching: Matching
) -> dict[tuple[int, int], dict[int, float]]:
    """Returns the share of the loss of each source, target and number of matches.

    The loss is a mean over ordered pairs, and each pair a mean over its two directions;
    the limits belong to the place of the source in its pair.

    Args:
        sizes: Number of positions of each view.
        limits: On the matches of the first and of the second view of a pair.
        matching: The settings.
    """
    views, leading = range(len(sizes)), matching.global_views
    pairs = [(i, j) for i in views[:leading] for j in views if j != i]
    found = defaultdict(lambda: defaultdict(float))
    for i, j in pairs:
        # Two global views are a pair in both orders, so a direction can occur twice,
        # with another limit.
        for place, direction in enumerate([(i, j), (j, i)]):
            every = sizes[direction[0]]
            most = every if limits is None else limits[place]
            k = min(most, every) if matching.clamp_matches else most
            found[direction][k] += 1 / (2 * len(pairs))
    return {direction: dict(by_k) for direction, by_k in found.items()}


def _matches(points, shares, matching) -> list[Match]:
    squares = {}
    found = []
    for (source, target), by_k in shares.items():
        # (x - y)^2 is (y - x)^2 to the last bit, so the way back has the same ties.
        back = squares.get((target, source))
        squares[source, target] = (
            _squared_distances(points[source], points[target])
            if back is None
            else jnp.swapaxes(back, 1, 2)
        )
        # The first of equally near candidates in raster order.
        nearest = jnp.argmin(squares[source, target], axis=2).astype(jnp.int32)
        # The barrier has it computed once: two roundings of it would rank one position
        # twice, and another one never.
        nearest_square = jax.lax.optimization_barrier(
            jnp.min(squares[source, target], axis=2)
        )
        ranks = _ranks(nearest_square)
        candidates = points[target].shape[1]
        for slots, weights in _slots(ranks, by_k, matching.slot_order):
            taken = nearest if slots is None else _take(slots, nearest)
            hits = taken[:, :, None] == _indices(candidates)
            found.append(Match(source, target, slots, hits, weights))
    return found


def _squared_distances(
    x: Float[Array, "batch positions features"],
    y: Float[Array, "batch candidates features"],
) -> Float[Array, "batch positions candidates"]:
    """Returns distances by differences, not by products: those would cancel.

    So equal positions are at distance zero, and equal candidates at equal distance. The
    barrier keeps compilers from fusing a square and a sum into one rounding, which some
    devices can and others cannot, and which would break ties in their own ways. It is
    only for points of few features: more would not fit in memory.
    """
    x, y = jax.lax.stop_gradient((x, y))
    squares = (x[:, :, None] - y[:, None]) ** 2
    if x.shape[2] == 2:
        squares = jax.lax.optimization_barrier(squares)
    return jnp.sum(squares, axis=3)


def _ranks(
    distances: Float[Array, "batch positions"],
) -> Int[Array, "batch positions"]:
    """Returns each position's place by distance; ties go to the earlier position."""
    # Counted instead of sorted: a sort gives the order, and the ranks are its inverse,
    # which would take a scatter.
    mine, other = distances[:, :, None], distances[:, None]
    index = _indices(distances.shape[1])
    earlier = (other == mine) & (index < index[:, None])
    return jnp.sum((other < mine) | earlier, axis=2, dtype=jnp.int32)


def _slots(ranks, by_k, slot_order):
    """Yields the chosen positions, slot by slot, and the weights of the slots.

    By distance, the first slots of a longer list are those of a shorter one, so that
    one list serves both. In raster order they are not.
    """
    every = ranks.shape[1]
    if slot_order == "distance":
        weights = np.zeros(max(by_k))
        for k, share in by_k.items():
            weights[:k] += share / k
        yield _is_at(ranks, max(by_k)), weights
        return
    for k, share in by_k.items():
        weights = np.full(k, share / k)
        if k == every:
            # Instead of an identity, so that `_local` takes the map as it is.
            yield None, weights
        else:
            # Kept positions get the places 0 to k - 1, in raster order. The others get
            # k, which is no slot's place.
            kept = ranks < k
            places = jnp.cumsum(kept, axis=1, dtype=jnp.int32) - 1
            yield _is_at(jnp.where(kept, places, k), k), weights


def _is_at(places, slots) -> Bool[Array, "batch slots positions"]:
    return places[:, None] == _indices(slots)[:, None]


def _take(slots, values):
    return jnp.sum(jnp.where(slots, values[:, None], 0), axis=2, dtype=jnp.int32)


def _indices(size) -> Int[Array, " size"]:
    return jnp.arange(size, dtype=jnp.int32)
