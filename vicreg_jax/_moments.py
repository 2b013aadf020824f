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

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jaxtyping import Array, Bool, Float


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

    variances: Float[Array, "batch dim"]
    off_diagonal: Float[Array, "batch dim"]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def moments(
    z: Float[Array, "batch dim"],
    where: Bool[Array, " batch"] | None,
    precision: PrecisionLike,
) -> Moments:
    """Returns the second moments of the rows of `z` that count.

    Args:
        z: one view, float32 or float64; rows that do not count are finite.
        where: rows that count, or None for all of them.
        precision: of the matrix products.
    """
    value, _ = _moments_and_slopes(z, where, precision)
    return value


@moments.defjvp
def _moments_jvp(precision, primals, tangents):
    z, where = primals
    dz, _ = tangents
    value, slope = _moments_and_slopes(z, where, precision)
    return value, Moments(
        variances=2 * jnp.sum(slope.variances * dz, axis=0),
        off_diagonal=4 * jnp.sum(slope.off_diagonal * dz),
    )


def _moments_and_slopes(z, where, precision) -> tuple[Moments, _Slopes]:
    x, dof = _centred(z, where)
    variances = jnp.sum(x**2, axis=0) / dof
    batch, dim = x.shape
    # Total minus diagonal loses the digits that both share. Whitened embeddings, where
    # training is headed, leave `dim / (batch - 1) - 1` of the diagonal beside it, so
    # from twice as many columns as rows on the loss is one bit at most.
    if 2 * batch <= dim:
        gram = jnp.matmul(x, x.T, precision=precision) / dof
        energy = jnp.sum(gram**2) - jnp.sum(variances**2)
        slope = jnp.matmul(gram, x, precision=precision) - x * variances
    else:
        product = jnp.matmul(x.T, x, precision=precision) / dof
        covariances = jnp.where(jnp.eye(dim, dtype=bool), 0, product)
        energy = jnp.sum(covariances**2)
        slope = jnp.matmul(x, covariances, precision=precision)
    value = Moments(variances, jnp.maximum(energy, 0))
    return value, _Slopes(variances=x / dof, off_diagonal=slope / dof)


def _centred(z, where):
    """Returns the rows about their mean, and the degrees of freedom, `n - 1`."""
    if where is None:
        return z - jnp.mean(z, axis=0), z.shape[0] - 1
    rows = where[:, None]
    count = jnp.sum(where, dtype=z.dtype)
    mean = jnp.sum(z, axis=0, where=rows) / count
    return jnp.where(rows, z - mean, 0), count - 1
