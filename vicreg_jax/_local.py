"""The terms of VICRegL's local loss: VICReg's own, slot by slot.

A slot holds one position of every image of the batch. All slots that come from one view
are taken together, so that their second moments are one batched computation: one
product for all slots, and one exchange between devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax import _rows
from vicreg_jax._matching import Match, matches
from vicreg_jax._moments import moments, statistics_dtype
from vicreg_jax._multiview import view_terms
from vicreg_jax._terms import VICRegTerms, covariance_term, variance_term

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

_STATIC = ("matching", "axes", "precision")


class _Layout(NamedTuple):
    """Where the slots of one view come from.

    Attributes:
        every: Whether the first slots are all positions in raster order.
        selections: The chosen positions of each later group of slots, in order.
        starts: First slot by index of the match and by side, "chosen" or "found".
        weights: Share of each slot in the loss.
    """

    every: bool
    selections: list[Bool[Array, "batch _ positions"]]
    starts: dict[tuple[int, str], int]
    weights: np.ndarray


@partial(jax.jit, inline=True, static_argnames=_STATIC)
def map_terms(
    maps, positions, gamma, where, eps, *, matching, axes, precision
) -> VICRegTerms:
    """Returns the terms of checked maps and positions, of any floating dtypes."""
    dtype = statistics_dtype(*maps)
    gamma, eps = (jax.lax.convert_element_type(a, dtype) for a in (gamma, eps))
    # Cast before the matching too: a squared distance of float16 features may be out
    # of float16's range.
    x = [_mask_images(_flat(z), where).astype(dtype) for z in maps]
    # Not masked: whatever an excluded image chooses, it chooses among zeros.
    points = [_flat(p).astype(statistics_dtype(p)) for p in positions]
    found = matches(x, points, matching)
    layouts = [_layout(found, view) for view in range(len(maps))]
    slots = [_slots(z, layout) for z, layout in zip(x, layouts, strict=True)]
    variance, covariance = [], []
    for rows, z, layout in zip(slots, maps, layouts, strict=True):
        of_slots = _moments(rows, where, axes, z.dtype, precision)
        hinges = jax.vmap(lambda m: variance_term(m, gamma, eps))(of_slots)
        # NumPy's float64 weights would promote the terms where x64 is on.
        variance.append(jnp.sum(hinges * layout.weights.astype(dtype)))
        energies = jax.vmap(covariance_term)(of_slots)
        covariance.append(jnp.sum(energies * layout.weights.astype(dtype)))
    return VICRegTerms(
        invariance=_invariance(found, layouts, slots, where, axes),
        variance=reduce(add, variance),
        covariance=reduce(add, covariance),
    )


@partial(jax.jit, inline=True, static_argnames=_STATIC)
def map_loss(
    maps, positions, gamma, where, eps, weights, *, matching, axes, precision
) -> Float[Array, ""]:
    """Returns the weighted sum of the terms of checked maps."""
    settings = {"matching": matching, "axes": axes, "precision": precision}
    terms = map_terms(maps, positions, gamma, where, eps, **settings)
    return terms.weighted_sum(*weights)


@partial(jax.jit, inline=True, static_argnames=_STATIC)
def both_terms(
    embeddings, maps, positions, gamma, where, eps, *, matching, axes, precision
) -> tuple[VICRegTerms, VICRegTerms]:
    """Returns the global and the local terms of checked arguments."""
    settings = {"axes": axes, "precision": precision}
    views = matching.global_views
    return (
        view_terms(embeddings, gamma, where, eps, global_views=views, **settings),
        map_terms(maps, positions, gamma, where, eps, matching=matching, **settings),
    )


@partial(jax.jit, inline=True, static_argnames=_STATIC)
def both_loss(
    embeddings, maps, positions, *settings, weights, alpha, matching, axes, precision
) -> Float[Array, ""]:
    """Returns the weighted sum of the global and the local terms."""
    options = {"matching": matching, "axes": axes, "precision": precision}
    of_views, of_maps = both_terms(embeddings, maps, positions, *settings, **options)
    first, second = (t.weighted_sum(*weights) for t in (of_views, of_maps))
    # Embeddings and maps may have different dtypes.
    dtype = jnp.promote_types(first.dtype, second.dtype)
    alpha = jax.lax.convert_element_type(alpha, dtype)
    return alpha * first.astype(dtype) + (1 - alpha) * second.astype(dtype)


def _flat(x):
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _mask_images(x, where):
    return x if where is None else jnp.where(where[:, None, None], x, 0)


def _layout(found: Sequence[Match], view: int) -> _Layout:
    # Matches that take every position share one set of slots, so that the moments of a
    # whole map are computed once, however many matches it has.
    every = [m.weights for m in found if m.source == view and m.chosen is None]
    at = len(every[0]) if every else 0
    # Each of these matches is a term of the loss, so shared slots add up the shares.
    weights = [sum(every)] if every else []
    selections, starts = [], {}
    for number, match in enumerate(found):
        for side, of in (("chosen", match.source), ("found", match.target)):
            if of != view:
                continue
            selection = getattr(match, side)
            if selection is None:
                starts[number, side] = 0
                continue
            starts[number, side] = at
            at += len(match.weights)
            selections.append(selection)
            weights.append(match.weights)
    return _Layout(bool(every), selections, starts, np.concatenate(weights))


def _slots(
    x: Float[Array, "batch positions channels"], layout: _Layout
) -> Float[Array, "slots batch channels"]:
    """Returns the slots of one view, exactly: sums of one entry and zeros."""
    parts = [jnp.swapaxes(x, 0, 1)] if layout.every else []
    if layout.selections:
        numbers = [selection.astype(x.dtype) for selection in layout.selections]
        selection = jnp.concatenate(numbers, axis=1)
        # At a lower precision the product would round what it takes.
        parts.append(jnp.einsum("bsp,bpc->sbc", selection, x, precision="highest"))
    return jnp.concatenate(parts)


def _moments(slots, where, axes, transfer_dtype, precision):
    return jax.vmap(lambda z: moments(z, where, axes, transfer_dtype, precision))(slots)


def _invariance(found, layouts, slots, where, axes):
    squares = []
    for number, match in enumerate(found):
        first, second = (
            _part(slots[view], layouts[view].starts[number, side], len(match.weights))
            for side, view in (("chosen", match.source), ("found", match.target))
        )
        squares.append(_weighted_squares(first, second, match.weights))
    _, batch, channels = slots[0].shape
    entries = _rows.counted(slots[0][0], where, axes) * channels
    # Added before the sum over devices, which is then that of one scalar.
    return _rows.total(reduce(add, squares), axes) / entries


def _part(slots, start, size):
    return jax.lax.slice_in_dim(slots, start, start + size)


def _weighted_squares(first, second, weights):
    # Recomputed for the gradient: kept, the differences take as much as the slots.
    @jax.checkpoint
    def squares(u, w):
        by_slot = jnp.sum((u - w) ** 2, axis=(1, 2))
        return jnp.sum(by_slot * weights.astype(u.dtype))

    return squares(first, second)
