"""Rows of a batch on several devices: the only module that uses collectives.

`axes` names the mapped axes (of `shard_map`, `pmap` or `vmap`) that the rows are spread
over. Each device then holds some of the rows, and the functions here exchange them.

If `axes` is empty, the array is the whole batch, and its type holds its sharding. On an
Auto mesh the compiler inserts the collectives. On an Explicit mesh every product that
contracts a sharded axis must be told how its result is sharded.
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
    """Which block of ``X X^T`` a device computes.

    Attributes:
        left: The axes along which rows are gathered for the block's rows. If empty,
            the block has the device's own rows only.
        right: The axes along which rows are gathered for the block's columns.
    """

    left: Axes
    right: Axes


def devices(axes: Axes) -> int:
    """Returns the number of devices that the rows are spread over."""
    return prod(jax.lax.axis_size(axis) for axis in axes)


def total(x: Shaped[Array, "*shape"], axes: Axes) -> Shaped[Array, "*shape"]:
    """Returns the sum over devices of each one's sum over its own rows."""
    return jax.lax.psum(x, axes) if axes else x


def counted(
    z: Shaped[Array, "rows dim"], where: Bool[Array, " rows"] | None, axes: Axes
) -> float | Shaped[Array, ""]:
    """Returns the number of included rows on all devices, in the dtype of `z`.

    In float32 it is exact up to 2^24 rows and rounded to 24 bits above.
    """
    if where is None:
        return as_number(z.shape[0] * devices(axes), z.dtype)
    return total(jnp.sum(where, dtype=z.dtype), axes)


def as_number(size: Size, dtype: DTypeLike) -> float | Shaped[Array, ""]:
    """Returns a size as a floating-point number.

    A product of sizes can exceed the 32 bits that JAX gives an integer by default.
    """
    if isinstance(size, int):
        return float(size)
    return jnp.asarray(size).astype(dtype)


def at_least(size: Size, least: Size, *, unknown: bool) -> bool:
    """Returns ``size >= least``, or `unknown` if symbolic sizes do not decide it."""
    try:
        return bool(size >= least)
    except Exception:
        # JAX raises an error without a public name for an undecided comparison.
        return unknown


def gathered(z: Shaped[Array, "rows ..."], axes: Axes) -> Shaped[Array, "all ..."]:
    """Returns the rows of all devices along `axes`, on each of them, in any order."""
    for axis in axes:
        z = jax.lax.all_gather(z, axis, tiled=True)
    mesh, spec = jax.typeof(z).sharding.mesh, jax.typeof(z).sharding.spec
    if _explicit(z):
        return jax.sharding.reshard(z, NamedSharding(mesh, P(None, *spec[1:])))
    if AxisType.Auto in mesh.axis_types:
        # Gather now, while the rows have the input's dtype. Without the constraint the
        # compiler gathers the operands of the product, which are wider.
        whole = NamedSharding(mesh, P(None, *[P.UNCONSTRAINED] * (z.ndim - 1)))
        return jax.lax.with_sharding_constraint(z, whole)
    return z


def replicated(z: Shaped[Array, "rows dim"]) -> Shaped[Array, "rows dim"]:
    """Returns `z` replicated over an Explicit mesh, both rows and columns."""
    if _explicit(z):
        return jax.sharding.reshard(z, NamedSharding(jax.typeof(z).sharding.mesh, P()))
    return z


def scattered(x: Shaped[Array, "all dim"], axes: Axes) -> Shaped[Array, "rows dim"]:
    """Returns this device's rows of the sum over devices; transposes `gathered`."""
    # In the opposite order of `gathered`, which gives the rows their order again.
    for axis in reversed(axes):
        x = jax.lax.psum_scatter(x, axis, tiled=True)
    return x


def matmul(
    a: Shaped[Array, "rows inner"],
    b: Shaped[Array, "inner columns"],
    precision: PrecisionLike,
    like: Shaped[Array, "rows columns"] | None = None,
) -> Shaped[Array, "rows columns"]:
    """Returns `a @ b`, sharded like `like` if given, else by rows like `a`."""
    out_sharding = None
    if _explicit(a):
        mesh, (rows, _) = jax.typeof(a).sharding.mesh, jax.typeof(a).sharding.spec
        by_rows = NamedSharding(mesh, P(rows, None))
        out_sharding = by_rows if like is None else jax.typeof(like).sharding
    return jnp.matmul(a, b, precision=precision, out_sharding=out_sharding)


def split(axes: Axes, transfer_dtype: DTypeLike, statistics: DTypeLike) -> Split:
    """Returns the split of ``X X^T`` into one block a device that moves fewest bytes.

    Rows travel along `left` and `right` in `transfer_dtype`. Along `left` the product
    with the block also travels back, in the dtype `statistics`. With an empty `left`,
    each device multiplies its own rows with all rows.
    """
    blocks = [
        Split(*part)
        for k in range(1, len(axes))
        # Either side may be the left one, along which the product travels too.
        for part in ((axes[:k], axes[k:]), (axes[k:], axes[:k]))
    ]

    def moved(part: Split) -> int:
        # In bytes for each entry of a device's own rows.
        rows, back = jnp.dtype(transfer_dtype).itemsize, jnp.dtype(statistics).itemsize
        return rows * devices(part.right) + (
            (rows + back) * devices(part.left) if part.left else 0
        )

    return min([*blocks, Split((), axes)], key=moved)


def _explicit(z) -> bool:
    return AxisType.Explicit in jax.typeof(z).sharding.mesh.axis_types
