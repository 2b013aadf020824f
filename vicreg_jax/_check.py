"""What can be known of the arguments before anything is computed."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from vicreg_jax._types import Embeddings, RowMask, Scalar

_DTYPES = ("float16", "bfloat16", "float32", "float64")


def embeddings(name: str, z: Embeddings) -> Float[Array, "batch dim"]:
    """Returns `z` as an array, or says why it is not a batch of embeddings."""
    array = jnp.asarray(z)
    if array.dtype.name not in _DTYPES:
        raise TypeError(
            f"`{name}` must have a dtype of {', '.join(_DTYPES)}, "
            f"got {array.dtype.name}"
        )
    if array.ndim != 2:
        raise ValueError(
            f"`{name}` must have rank 2, (batch, dim), got shape {array.shape}"
        )
    batch, dim = array.shape
    if batch < 2:
        raise ValueError(
            f"`{name}` must have at least 2 rows, to have a variance, "
            f"got shape {array.shape}"
        )
    if dim < 1:
        raise ValueError(
            f"`{name}` must have at least 1 column, got shape {array.shape}"
        )
    return array


def views(z1: Embeddings, z2: Embeddings) -> tuple[jax.Array, jax.Array]:
    """Returns both views as arrays of one shape, or says why they are not."""
    first, second = embeddings("z1", z1), embeddings("z2", z2)
    if first.shape != second.shape:
        raise ValueError(
            "`z2` must have the shape of `z1`, row i of both from the same sample: "
            f"{first.shape}, got {second.shape}"
        )
    return first, second


def row_mask(where: RowMask | None, batch: int) -> Bool[Array, " batch"] | None:
    """Returns `where` as an array, or says why it does not choose among the rows."""
    if where is None:
        return None
    array = jnp.asarray(where)
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"`where` must have dtype bool (True: the row counts), got {array.dtype}"
        )
    if array.shape != (batch,):
        raise ValueError(
            f"`where` must have one entry a row, shape ({batch},), got {array.shape}"
        )
    return array


def scalar(name: str, value: Scalar) -> float | jax.Array:
    """Returns `value` as a float, or as it is where it is already an array."""
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
    """Like `scalar`; a number that is known now must also be at least 0."""
    checked = scalar(name, value)
    if isinstance(value, numbers.Real | np.ndarray):
        known = float(value)
        if math.isnan(known) or known < 0:
            raise ValueError(f"`{name}` must be at least 0, got {value}")
    return checked
