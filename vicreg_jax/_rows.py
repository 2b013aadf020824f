"""Where the rows of a batch are: the one module that knows of devices.

`axes` names the mapped axes that the rows are spread over (`shard_map`, `pmap`,
`vmap`): every device holds some rows, and what is here exchanges them. Where `axes` is
empty the array is the whole batch, and its sharding, if any, is in its type: on an
Auto mesh the compiler finds the exchanges, on an Explicit one each product has to be
told how its result is sharded.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jax.typing import DTypeLike
    from jaxtyping import Array, Bool, Shaped

Axes = tuple[str, ...]
Size: TypeAlias = Any
"""An int, or a symbolic expression of `jax.export`."""


class Split(NamedTuple):
    """Which rows a device multiplies with which.

    Attributes:
        left: axes whose rows it holds as rows of its block of `X X^T`, its own besides.
        right: axes whose rows it holds as columns.
    """

    left: Axes
    right: Axes


def devices(axes: Axes) -> int:
    """Returns how many devices the rows are spread over."""
    return prod(jax.lax.axis_size(axis) for axis in axes)


def total(x: Shaped[Array, "*shape"], axes: Axes) -> Shaped[Array, "*shape"]:
    """Returns the sum of what each device has summed over its own rows."""
    return jax.lax.psum(x, axes) if axes else x


def counted(
    z: Shaped[Array, "rows dim"], where: Bool[Array, " rows"] | None, axes: Axes
) -> float | Shaped[Array, ""]:
    """Returns how many rows of all devices count, to divide what has the dtype of `z`.

    Exact up to 2^24 rows in float32, and rounded to its 24 bits from there on.
    """
    if where is None:
        return as_number(z.shape[0] * devices(axes), z.dtype)
    return total(jnp.sum(where, dtype=z.dtype), axes)


def as_number(size: Size, dtype: DTypeLike) -> float | Shaped[Array, ""]:
    """Returns a size to calculate with; an integer's 32 bits may not hold products."""
    if isinstance(size, int):
        return float(size)
    return jnp.asarray(size).astype(dtype)


def at_least(size: Size, least: Size, *, unknown: bool) -> bool:
    """Returns whether a size reaches another, or `unknown` if symbols leave it open."""
    try:
        return bool(size >= least)
    except Exception:
        # JAX's own error for this has no public name.
        return unknown


def gathered(z: Shaped[Array, "rows ..."], axes: Axes) -> Shaped[Array, "all ..."]:
    """Returns the rows of all devices along `axes`, in any order, on each of them."""
    for axis in axes:
        z = jax.lax.all_gather(z, axis, tiled=True)
    mesh, spec = jax.typeof(z).sharding.mesh, jax.typeof(z).sharding.spec
    if _explicit(z):
        return jax.sharding.reshard(z, NamedSharding(mesh, P(None, *spec[1:])))
    if AxisType.Auto in mesh.axis_types:
        # Said here, while they are still in the dtype of the input: left alone, the
        # compiler moves what it multiplies, in the dtype of the statistics.
        whole = NamedSharding(mesh, P(None, *[P.UNCONSTRAINED] * (z.ndim - 1)))
        return jax.lax.with_sharding_constraint(z, whole)
    return z


def replicated(z: Shaped[Array, "rows dim"]) -> Shaped[Array, "rows dim"]:
    """Returns `z` whole on each device of an Explicit mesh, its features too."""
    if _explicit(z):
        return jax.sharding.reshard(z, NamedSharding(jax.typeof(z).sharding.mesh, P()))
    return z


def scattered(x: Shaped[Array, "all dim"], axes: Axes) -> Shaped[Array, "rows dim"]:
    """Returns the own rows of a sum over devices; `gathered`, transposed."""
    for axis in reversed(axes):
        x = jax.lax.psum_scatter(x, axis, tiled=True)
    return x


def matmul(
    a: Shaped[Array, "rows inner"],
    b: Shaped[Array, "inner columns"],
    precision: PrecisionLike,
    like: Shaped[Array, "rows columns"] | None = None,
) -> Shaped[Array, "rows columns"]:
    """Returns `a @ b`, sharded as `like`, or else by rows, as `a`."""
    out_sharding = None
    if _explicit(a):
        mesh, (rows, _) = jax.typeof(a).sharding.mesh, jax.typeof(a).sharding.spec
        by_rows = NamedSharding(mesh, P(rows, None))
        out_sharding = by_rows if like is None else jax.typeof(like).sharding
    return jnp.matmul(a, b, precision=precision, out_sharding=out_sharding)


def split(axes: Axes, wire: DTypeLike, statistics: DTypeLike) -> Split:
    """Returns the split of `X X^T` into blocks, one a device, that moves least.

    Along `left` and `right` rows travel in the dtype `wire`; along `left` the product
    with the block comes back as well, in the dtype `statistics`. With nothing on the
    left, a device's block is its own rows times all others.
    """
    blocks = [
        Split(*part)
        for k in range(1, len(axes))
        for part in ((axes[:k], axes[k:]), (axes[k:], axes[:k]))
    ]

    def moved(part: Split) -> int:  # bytes, for each entry of a device's own rows
        rows, back = jnp.dtype(wire).itemsize, jnp.dtype(statistics).itemsize
        return rows * devices(part.right) + (
            (rows + back) * devices(part.left) if part.left else 0
        )

    return min([*blocks, Split((), axes)], key=moved)


def _explicit(z) -> bool:
    return AxisType.Explicit in jax.typeof(z).sharding.mesh.axis_types
