"""The second moments of a batch of embeddings: all that VICReg asks of one view.

Both terms of one view, variance and covariance, are functions of the sample
covariance `C = X^T X / (n - 1)` of the centred rows `X`: of its diagonal, and of the
sum of the squares beside it. Neither needs `C` itself.

The tangents are written out because plain differentiation pays twice: it runs two
products where one is enough, and it sends the gradient back through the centring,
which changes nothing, since the gradient's columns already sum to zero.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier as barrier

from vicreg_jax import _rows

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jax.typing import DTypeLike
    from jaxtyping import Array, Bool, Float

    from vicreg_jax._rows import Axes, Size


class Moments(NamedTuple):
    """The diagonal of a sample covariance, and the energy beside it.

    Attributes:
        variances: `C_jj`, shape `(dim,)`.
        off_diagonal: `sum_{i != j} C_ij^2`, a scalar.
    """

    variances: Float[Array, " dim"]
    off_diagonal: Float[Array, ""]


class _Slopes(NamedTuple):
    """What the gradient of each moment is, but for a factor."""

    variances: Float[Array, "rows dim"]
    off_diagonal: Float[Array, "batch dim"]


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def moments(
    z: Float[Array, "rows dim"],
    where: Bool[Array, " rows"] | None,
    axes: Axes,
    wire: DTypeLike,
    precision: PrecisionLike,
) -> Moments:
    """Returns the second moments of the rows of `z` that count.

    Args:
        z: one view in the dtype of the statistics, zero in the rows that do not count.
        where: rows that count, or None for all of them.
        axes: mapped axes that the rows are spread over.
        wire: the dtype that the view came in, and that rows travel between devices in;
            `z` holds nothing that it cannot.
        precision: of the matrix products.
    """
    value, _ = _moments_and_slopes(z, where, axes, wire, precision)
    return value


@moments.defjvp
def _moments_jvp(axes, wire, precision, primals, tangents):
    (z, where), dz = primals, tangents[0]
    value, slope = _moments_and_slopes(z, where, axes, wire, precision)
    return value, Moments(
        variances=2 * _rows.total(jnp.sum(slope.variances * dz, axis=0), axes),
        off_diagonal=4 * _rows.total(jnp.sum(slope.off_diagonal * dz), axes),
    )


def _moments_and_slopes(z, where, axes, wire, precision) -> tuple[Moments, _Slopes]:
    count = _rows.counted(z, where, axes)
    # With no row at all, too, what follows is NaN.
    dof = count - 1 if where is None else jnp.maximum(count - 1, 0)
    mean = _rows.total(jnp.sum(z, axis=0), axes) / count
    x = _centred(z, where, mean)
    variances = _rows.total(jnp.sum(x**2, axis=0), axes) / dof
    if subtracts_diagonal(z.shape[0] * _rows.devices(axes), z.shape[1]):

        def along(some_axes):
            return _gathered(z, where, mean, x, some_axes, wire)

        split = _rows.split(axes, wire, z.dtype)
        left = along(split.left) if split.left else x
        right = along(split.right)
        block = _rows.matmul(left, right.T, precision) / dof
        energy = _rows.total(jnp.sum(block**2), axes) - jnp.sum(variances**2)
        # Done before the sums over devices arrive: otherwise the compiler fuses it with
        # what follows, and all gathered rows wait in memory until then.
        slope = barrier(_rows.matmul(block, right, precision, like=left))
        slope = _rows.scattered(slope, split.left) - x * variances[None]
    else:
        product = _rows.total(_rows.matmul(x.T, x, precision), axes) / dof
        diagonal = jnp.eye(product.shape[0], dtype=bool)
        covariances = jnp.where(diagonal, 0, product)
        energy = jnp.sum(covariances**2)
        slope = _rows.matmul(x, covariances, precision, like=x)
    value = Moments(variances, jnp.maximum(energy, 0))
    return value, _Slopes(variances=x / dof, off_diagonal=slope / dof)


def _centred(z, where, mean):
    x = z - mean[None]
    return x if where is None else jnp.where(where[:, None], x, 0)


def _gathered(z, where, mean, x, axes, wire):
    """Returns the centred rows of all devices along `axes`; `x` are this one's.

    They travel once, in the dtype `wire`. The barriers are for compilers that share
    what is common: with the broadcast of the mean shared between own and gathered rows
    they gather the broadcast too, and in both products they centre again.
    """
    if z.dtype == wire:
        return _rows.gathered(x, axes)
    narrow = z.astype(wire)
    raw = _rows.gathered(narrow, axes)
    if raw is narrow:
        return x
    mask = None if where is None else _rows.gathered(where, axes)
    return barrier(_centred(raw.astype(z.dtype), mask, barrier(mean)))


def subtracts_diagonal(rows: Size, dim: Size) -> bool:
    """Returns whether to form `X X^T`, whose diagonal part is taken off the total.

    Total minus diagonal loses the digits that both share. Whitened embeddings, where
    training is headed, leave `dim / rows` of the diagonal beside it, so from twice as
    many columns as rows on the loss is one bit at most; near `dim = rows` it would be
    all of them.

    A few columns that outweigh all others cancel too. Taking the 4 to 8 heaviest
    apart, by their rows of `X^T X`, gave all digits back beside a column 10^4 times as
    wide. It was left out for its cost: 1.03 to 1.05 times as long at 1024x4096, 1.2 at
    256x8192 and 2.0 at 256x2048 (two CPU cores, 2026-11-25). `diagnostics` tells of
    such columns.

    Where sizes are symbolic and it is not known which is larger, `X^T X` is right for
    any of them.
    """
    return _rows.at_least(dim, 2 * rows, unknown=False)
