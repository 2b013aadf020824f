"""Checks of feature maps and positions at trace time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import jax
import jax.numpy as jnp

from vicreg_jax import _check
from vicreg_jax._matching import Matching, SlotOrder, shares

if TYPE_CHECKING:
    from vicreg_jax._rows import Axes

Arrays = tuple[jax.Array, ...]


def maps(names: Sequence[str], arrays: Sequence, axes: Axes) -> Arrays:
    """Returns the feature maps as arrays, or raises an error."""
    checked = tuple(
        _feature_map(name, array, axes)
        for name, array in zip(names, arrays, strict=True)
    )
    batch, *_, channels = checked[0].shape
    for name, array in zip(names, checked, strict=True):
        # Height and width may differ, since the maps of local crops are smaller.
        if (array.shape[0], array.shape[3]) != (batch, channels):
            raise ValueError(
                f"`{name}` must have the batch and the channels of `{names[0]}`, "
                f"{batch} and {channels}, got shape {array.shape}"
            )
    return checked


def positions(names: Sequence[str], arrays: Sequence, maps: Arrays) -> Arrays:
    """Returns the positions of checked feature maps as arrays, or raises an error."""
    checked = []
    for name, array, of in zip(names, map(jnp.asarray, arrays), maps, strict=True):
        _check.dtype(name, array)
        want = (*of.shape[:3], 2)
        if array.shape != want:
            raise ValueError(
                f"`{name}` must have shape (batch, height, width, 2), {want} for this "
                f"map, got {array.shape}"
            )
        checked.append(array)
    return tuple(checked)


def views(maps_, positions_, embeddings: Arrays, axes: Axes):
    """Returns maps, positions and the names of the maps, or raises an error."""
    names = {}
    arrays = {}
    for name, array, last in (
        ("maps", maps_, "channels"),
        ("positions", positions_, "2"),
    ):
        found = _check.sequence(name, array, f"(views, batch, height, width, {last})")
        if len(found) != len(embeddings):
            raise ValueError(
                f"`{name}` must hold as many views as `global_embeddings`, "
                f"{len(embeddings)}, got {len(found)}"
            )
        arrays[name] = found
        names[name] = [f"{name}[{v}]" for v in range(len(found))]
    checked = maps(names["maps"], arrays["maps"], axes)
    if checked[0].shape[0] != embeddings[0].shape[0]:
        raise ValueError(
            "`maps[0]` must have the batch of `global_embeddings`, "
            f"{embeddings[0].shape[0]}, got shape {checked[0].shape}"
        )
    places = positions(names["positions"], arrays["positions"], checked)
    return checked, places, names["maps"]


def matching(settings: Matching, names: Sequence[str], maps: Arrays) -> Matching:
    """Returns the settings, or raises an error where a map cannot serve them."""
    if settings.slot_order not in get_args(SlotOrder):
        raise ValueError(
            f"`slot_order` must be one of {get_args(SlotOrder)}, "
            f"got {settings.slot_order!r}"
        )
    sizes = [x.shape[1] * x.shape[2] for x in maps]
    for name in ("feature_matches", "location_matches"):
        limits = _limits(name, getattr(settings, name))
        settings = settings._replace(**{name: limits})
        # Which limits a view meets depends on its places in its pairs, and on whether
        # limits are clamped to the size of the map.
        by_direction = shares(sizes, limits, settings)
        for source in range(len(maps)):
            _fit(name, names, sizes, source, by_direction)
    return settings


def _fit(name, names, sizes, source, by_direction):
    wanted = [k for (v, _), by_k in by_direction.items() if v == source for k in by_k]
    # JAX would report nothing: slots beyond the last position would hold zeros.
    if max(wanted) > sizes[source]:
        raise ValueError(
            f"`{name}` must be at most the {sizes[source]} positions of "
            f"`{names[source]}`, got {max(wanted)}"
        )


def _limits(name, value):
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"`{name}` must be None or two numbers, got {value!r}")
    # Not `isinstance`, which accepts True as an int.
    if not all(type(k) is int and k >= 1 for k in value):
        raise ValueError(f"`{name}` must be whole numbers from 1 on, got {value!r}")
    # The matching is a static argument of `jax.jit`, and a list has no hash.
    return tuple(value)


def _feature_map(name, array, axes):
    array = jnp.asarray(array)
    _check.dtype(name, array)
    if array.ndim != 4:
        raise ValueError(
            f"`{name}` must have rank 4, (batch, height, width, channels), "
            f"got shape {array.shape}"
        )
    if 0 in array.shape[1:]:
        raise ValueError(
            f"`{name}` must have at least 1 position and 1 channel, "
            f"got shape {array.shape}"
        )
    # A slot has one row for each image, however many positions the map has.
    _check.rows(name, array, axes)
    return array
