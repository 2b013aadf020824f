"""The inputs of probes: features and labels, checked, padded and spread over a mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Integer

NO_LABEL = -1
# The linear probes pad the rows of each device to a multiple of this. The loss of
# logistic regression is summed in such blocks, and test sets of about the same size
# share a compiled program.
MULTIPLE = 128
_AT_LEAST = 1024  # fits pad the rows of all devices together to a multiple of this


class Rows(NamedTuple):
    """Labeled features as the fits take them.

    Attributes:
        features: Shape ``(rows, width)``, float, with rows of zeros as padding.
        labels: Shape ``(rows,)``, int32, -1 for padding and for rows to ignore.
    """

    features: Float[Array, "rows width"]
    labels: Integer[Array, " rows"]


def mesh_of(features: Any, mesh: Mesh | None) -> Mesh | None:
    """Returns the mesh to use, with Auto axes only, or None for one device.

    Args:
        features: An array. If it has a sharding over a mesh, that is the default.
        mesh: The mesh that the caller asks for, or None.
    """
    if mesh is None:
        sharding = getattr(features, "sharding", None)
        if not isinstance(sharding, NamedSharding):
            return None
        mesh = sharding.mesh if isinstance(sharding.mesh, Mesh) else None
    if mesh is None or mesh.size == 1:
        return None
    # On Auto axes one program is right for every mesh. On Explicit ones each product
    # over rows would have to be told how its result is sharded. The devices are the
    # same, so that no data move.
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def pad_and_shard(
    array: Any, mesh: Mesh | None, multiple: int, fill: float = 0
) -> Array:
    """Returns an array whose rows are padded, and spread over all axes of a mesh.

    Args:
        array: Shape ``(rows, ...)``.
        mesh: The mesh, or None for JAX's default device.
        multiple: The rows of each device become a multiple of this number.
        fill: Value of the padding.
    """
    missing = -array.shape[0] % (multiple * (mesh.size if mesh else 1))
    if missing:
        # Padded where the array is: `jnp.pad` would first bring rows of the host to one
        # device.
        numpy_like = np if isinstance(array, np.ndarray) else jnp
        widths = ((0, missing), *((0, 0) for _ in array.shape[1:]))
        array = numpy_like.pad(array, widths, constant_values=fill)
    if mesh is None:
        return jnp.asarray(array)
    rows = NamedSharding(mesh, P(mesh.axis_names))
    if isinstance(array, np.ndarray) and not rows.is_fully_addressable:
        # `device_put` would copy all rows of every process to every device, to check
        # that the processes have the same.
        return jax.make_array_from_callback(array.shape, rows, lambda own: array[own])
    return jax.device_put(array, rows)


def labeled(features: Any, labels: Any, mesh: Mesh | None) -> Rows:
    """Returns features and labels, padded and spread over a mesh.

    The number of rows becomes a multiple of 1024 or more, so that probes of different
    numbers of samples share a compiled program.
    """
    blocks = -(-_AT_LEAST // (MULTIPLE * (mesh.size if mesh else 1)))
    multiple = MULTIPLE * blocks
    whole = pad_and_shard(np.asarray(labels, np.int32), mesh, multiple, NO_LABEL)
    return Rows(pad_and_shard(features, mesh, multiple), whole)


def int32_labels(labels: Integer[Array | np.ndarray, " rows"]) -> np.ndarray:
    """Returns labels on the host, in the dtype in which the probes compare them.

    Args:
        labels: Labels of any integer dtype, at least one.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If a label is outside of int32, where the cast would wrap.
    """
    values, limits = np.asarray(labels), np.iinfo(np.int32)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"`labels` must be integers, got {values.dtype}")
    for value in (int(values.min()), int(values.max())):
        if not limits.min <= value <= limits.max:
            raise ValueError(
                f"`labels` must be from 0 to {limits.max}, or -1 for rows without a "
                f"label, got {value}"
            )
    return values.astype(np.int32)


def wide(features: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
    """Returns features in float32, or in float64 if they are."""
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def check(name: str, features: Any, labels: Any = None) -> None:
    """Checks that features are a finite matrix, with an integer label for each row.

    Args:
        name: Name of the features, for errors.
        features: The features.
        labels: Their labels, or None.

    Raises:
        TypeError: If the features are not floating-point, or the labels not integers.
        ValueError: If a shape is wrong, a value is not finite, or the squares of all
            values have no finite sum in the dtype that the probes compute in. Then
            every sum of squares and products that they form is finite.
    """
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise TypeError(f"`{name}` must be floating-point, got {features.dtype}")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"`{name}` must have shape (rows, width), both at least 1, "
            f"got {features.shape}"
        )
    total = _sum_of_squares(features)
    if not np.isfinite(total):
        raise ValueError(
            f"`{name}` must be finite, with a finite sum of squares, got {total}"
        )
    if labels is None:
        return
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"the labels of `{name}` must be integers, got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"`{name}` must have a label for each row, shape {features.shape[:1]}, "
            f"got {labels.shape}"
        )


def _sum_of_squares(features):
    """Returns the sum over a matrix, without other memory of its size."""
    if not isinstance(features, np.ndarray):
        return _device_sum_of_squares(features)
    # What `wide` computes in once the features are on a device.
    dtype = jnp.promote_types(jnp.asarray(features[:0]).dtype, jnp.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.einsum(
            "ij,ij->", features, features, dtype=dtype, casting="same_kind"
        )


@jax.jit
def _device_sum_of_squares(features):
    return jnp.sum(wide(features) ** 2)
