"""Checks of arguments at trace time, with errors that name the argument."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax import _rows

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from vicreg_jax._rows import Axes, Size
    from vicreg_jax._types import AxisName, Embeddings, RowMask, Scalar, Views

# By name, because `jnp.floating` has the 8-bit dtypes under it as well.
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def axes(axis_name: AxisName) -> Axes:
    """Returns the names of the mapped axes, each of them bound."""
    if axis_name is None:
        return ()
    # Lists are refused: the names are static arguments of `jax.jit`, which hashes them.
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "`axis_name` must be a string, a tuple of strings or None, "
            f"got {axis_name!r}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"`axis_name` must name every axis once, got {axis_name!r}")
    for name in names:
        # JAX's own error would come later, from inside a sum over the axis.
        try:
            jax.lax.axis_size(name)
        except NameError:
            raise ValueError(
                "`axis_name` must name axes bound by `jax.shard_map`, `jax.pmap` or "
                f"`jax.vmap(axis_name=...)`, got {name!r}, which is not bound. Under "
                "`jax.jit` alone leave it None, however the arrays are sharded"
            ) from None
    return names


def embeddings(name: str, z: Embeddings, axes: Axes = ()) -> Float[Array, "rows dim"]:
    """Returns `z` as an array of shape (batch, dim) and a floating dtype."""
    # Converted first: without x64, JAX makes float32 of NumPy's float64.
    array = jnp.asarray(z)
    dtype(name, array)
    if array.ndim != 2:
        raise ValueError(
            f"`{name}` must have rank 2, (batch, dim), got shape {array.shape}"
        )
    rows(name, array, axes)
    # Unlike `< 1`, this is decided for every symbolic width.
    if array.shape[1] == 0:
        raise ValueError(
            f"`{name}` must have at least 1 column, got shape {array.shape}"
        )
    return array


def dtype(name: str, array: jax.Array) -> None:
    """Raises an error unless the array has a dtype that the loss takes."""
    if array.dtype.name not in _DTYPES:
        raise TypeError(
            f"`{name}` must have a dtype of {', '.join(_DTYPES)}, "
            f"got {array.dtype.name}"
        )


def rows(name: str, array: jax.Array, axes: Axes) -> None:
    """Raises an error unless there are enough rows for a variance."""
    # The statistics are those of the whole batch, so one row a device is enough.
    devices = _rows.devices(axes)
    # A symbolic number of rows may turn out large enough, so it passes.
    if not _rows.at_least(array.shape[0] * devices, 2, unknown=True):
        place = f" on {devices} device" + "s" * (devices > 1) if axes else ""
        raise ValueError(
            f"`{name}` must have at least 2 rows for a variance, "
            f"got shape {array.shape}{place}"
        )


def views(
    z1: Embeddings, z2: Embeddings, axes: Axes = ()
) -> tuple[jax.Array, jax.Array]:
    """Returns both views as arrays of the same shape."""
    first, second = embeddings("z1", z1, axes), embeddings("z2", z2, axes)
    # Broadcasting would hide this: one column would be compared with every column.
    if first.shape != second.shape:
        raise ValueError(
            "`z2` must have the shape of `z1`, row i of both from the same sample: "
            f"{first.shape}, got {second.shape}"
        )
    return first, second


def multiview(name: str, views: Views, axes: Axes = ()) -> tuple[jax.Array, ...]:
    """Returns two or more views as arrays of one shape, or raises an error."""
    arrays = tuple(
        embeddings(f"{name}[{v}]", z, axes)
        for v, z in enumerate(sequence(name, views, "(views, batch, dim)"))
    )
    for v, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"`{name}[{v}]` must have the shape of `{name}[0]`, row i of every "
                f"view from the same sample: {arrays[0].shape}, got {array.shape}"
            )
    return arrays


def sequence(name: str, arrays: Any, shape: str) -> list[Any]:
    """Returns the arrays of two or more views, or raises an error."""
    # One view, of rank 2, would otherwise pass as a sequence of its rows.
    if isinstance(arrays, jax.Array | np.ndarray):
        rank = shape.count(",") + 1
        if arrays.ndim != rank:
            raise ValueError(
                f"`{name}` must have rank {rank}, {shape}, or be a sequence of arrays, "
                f"got shape {arrays.shape}"
            )
    elif not isinstance(arrays, Sequence):
        raise TypeError(
            f"`{name}` must be an array or a sequence of arrays, got {type(arrays)}"
        )
    if len(arrays) < 2:
        raise ValueError(f"`{name}` must hold at least 2 views, got {len(arrays)}")
    return list(arrays) if isinstance(arrays, Sequence) else _unstacked(arrays)


def _unstacked(arrays) -> list[jax.Array]:
    """Returns the views of one array.

    The gradient of a split is one concatenation. Indexing would instead place the
    gradient of each view in an array of zeros as large as all views, and add these.
    """
    array = jnp.asarray(arrays)
    parts = jax.lax.split(array, [1] * array.shape[0], axis=0)
    return [part.reshape(array.shape[1:]) for part in parts]


def global_views(value: int | None, views: int) -> int:
    """Returns the number of views that are paired with all others."""
    if value is None:
        return views
    # Not `isinstance`, which accepts True as an int.
    if type(value) is not int or not 1 <= value <= views:
        raise ValueError(
            f"`global_views` must be None or from 1 to the number of views, {views}, "
            f"got {value!r}"
        )
    return value


def row_mask(where: RowMask | None, batch: Size) -> Bool[Array, " batch"] | None:
    """Returns `where` as a bool array with one entry for each row."""
    if where is None:
        return None
    array = jnp.asarray(where)
    # Weights or indices of rows would otherwise pass: `jnp.where` takes every nonzero
    # number for True.
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"`where` must have dtype bool (True: include the row), got {array.dtype}"
        )
    if array.shape != (batch,):
        raise ValueError(
            f"`where` must have one entry for each row, shape ({batch},), "
            f"got {array.shape}"
        )
    return array


def scalar(name: str, value: Scalar) -> float | jax.Array:
    """Returns a Python number as a float and an array scalar unchanged."""
    # Integers and NumPy's scalars too, so that all numbers share one compiled program.
    if isinstance(value, numbers.Real):
        return float(value)
    array = jnp.asarray(value)
    if array.shape != ():
        raise ValueError(f"`{name}` must be a scalar, got shape {array.shape}")
    if not (
        jnp.issubdtype(array.dtype, jnp.floating)
        or jnp.issubdtype(array.dtype, jnp.integer)
    ):
        raise TypeError(f"`{name}` must be a real number, got dtype {array.dtype}")
    return array


def not_negative(name: str, value: Scalar) -> float | jax.Array:
    """Like `scalar`, for values of at least 0; JAX arrays are not inspected."""
    checked = scalar(name, value)
    if isinstance(value, numbers.Real | np.ndarray):
        known = float(value)
        # NaN is not below 0, and would make every hinge NaN.
        if math.isnan(known) or known < 0:
            raise ValueError(f"`{name}` must be at least 0, got {value}")
    return checked
