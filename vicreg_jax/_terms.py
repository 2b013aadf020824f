"""The three terms of VICReg: the paper's equations, one function each.

Each public function checks what is known of its arguments and calls one compiled
program. The programs take embeddings of any floating dtype and compute in float32, or
in float64 where the embeddings are float64.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from vicreg_jax import _check, _rows
from vicreg_jax._moments import Moments, moments

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jaxtyping import Array, Bool, Float

    from vicreg_jax._rows import Axes
    from vicreg_jax._types import AxisName, Embeddings, RowMask, Scalar


class VICRegTerms(NamedTuple):
    """The three terms before they are weighed, each a scalar.

    Attributes:
        invariance: mean squared difference of the two views.
        variance: hinge on the standard deviations, the two views summed.
        covariance: energy off the diagonal of the covariance, the two views summed.
    """

    invariance: Float[Array, ""]
    variance: Float[Array, ""]
    covariance: Float[Array, ""]

    def weighted_sum(self, lambd: Scalar, mu: Scalar, nu: Scalar) -> Float[Array, ""]:
        """Returns ``lambd * invariance + mu * variance + nu * covariance``."""
        dtype = self.invariance.dtype
        lambd, mu, nu = (
            jax.lax.convert_element_type(w, dtype) for w in (lambd, mu, nu)
        )
        return lambd * self.invariance + mu * self.variance + nu * self.covariance


def invariance(
    z1: Embeddings,
    z2: Embeddings,
    *,
    axis_name: AxisName = None,
    where: RowMask | None = None,
) -> Float[Array, ""]:
    """The invariance term: how far apart the two views of a sample are.

    ``s(Z1, Z2) = mean((Z1 - Z2)^2)`` over all entries. The paper's equation 5 sums
    over the columns instead and is ``dim`` times this; its Algorithm 1, and every
    implementation of it, take the mean.

    Args:
        z1: embeddings of one view, shape ``(batch, dim)``, float16, bfloat16, float32
            or float64.
        z2: embeddings of the other view, of the same shape, row i of both from the
            same sample.
        axis_name: the mapped axis, or axes, that rows are spread over.
        where: rows that count, shape ``(batch,)``, dtype bool. None: all of them.

    Returns:
        A scalar, float32; float64 where a view is float64.

    Raises:
        ValueError: a shape is wrong.
        TypeError: a dtype is wrong.

    Example:
        >>> import jax.numpy as jnp, vicreg_jax
        >>> z = jnp.array([[0.0, 2.0], [4.0, 6.0]])
        >>> print(vicreg_jax.invariance(z, z + 3))
        9.0

    Reference:
        Bardes et al., VICReg, https://arxiv.org/abs/2105.04906, equation 5.
    """
    axes = _check.axes(axis_name)
    z1, z2 = _check.views(z1, z2, axes)
    return _invariance(z1, z2, _check.row_mask(where, z1.shape[0]), axes=axes)


def variance(
    z: Embeddings,
    gamma: Scalar = 1.0,
    *,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    eps: Scalar = 1e-4,
) -> Float[Array, ""]:
    """The variance term of one view: a hinge that keeps every column alive.

    ``v(Z) = mean_j max(0, gamma - sqrt(Var(Z_j) + eps))`` with the unbiased variance,
    over ``n - 1``. At the kink the gradient is 0, as in PyTorch.

    Args:
        z: embeddings, shape ``(batch, dim)``, float16, bfloat16, float32 or float64.
        gamma: the standard deviation that every column should reach.
        axis_name: the mapped axis, or axes, that rows are spread over.
        where: rows that count, shape ``(batch,)``, dtype bool. None: all of them.
        eps: added to the variance, so that a collapsed column has a finite gradient.

    Returns:
        A scalar, float32 (float64 for float64): 0 where all columns spread by at least
        ``gamma``, ``gamma - sqrt(eps)`` in full collapse, NaN with fewer than two rows
        that count.

    Raises:
        ValueError: a shape is wrong, or ``gamma`` or ``eps`` is a negative number.
        TypeError: a dtype is wrong.

    Example:
        >>> import jax.numpy as jnp, vicreg_jax
        >>> print(vicreg_jax.variance(jnp.ones((4, 3))))
        0.99

    Reference:
        Bardes et al., VICReg, https://arxiv.org/abs/2105.04906, equations 1 and 2.
    """
    axes = _check.axes(axis_name)
    z = _check.embeddings("z", z, axes)
    where = _check.row_mask(where, z.shape[0])
    gamma = _check.not_negative("gamma", gamma)
    return _variance(z, gamma, where, _check.not_negative("eps", eps), axes=axes)


def covariance(
    z: Embeddings,
    *,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    precision: PrecisionLike = "highest",
) -> Float[Array, ""]:
    """The covariance term of one view: what its columns still say of each other.

    ``c(Z) = sum_{i != j} C_ij^2 / dim`` with the sample covariance ``C``, over
    ``n - 1``. Where ``dim >= 2 * batch`` it comes from the ``batch x batch`` product,
    else from the ``dim x dim`` one.

    Accuracy: the ``dim x dim`` form loses nothing by cancellation. The
    ``batch x batch`` form subtracts the diagonal of ``C`` from all of it: its error is
    that of summing ``sum_ij C_ij^2 / dim``, the diagonal included, and so is that of
    the gradient. At equal variances the diagonal is at most half of the sum, which
    costs one bit. The more a few columns outweigh all others, the more it costs; where
    one does by a factor of 100 or more, few digits are left in float32, or none:
    rescale such columns, or pass float64. ``diagnostics(z).covariance_condition`` says
    by how much errors grow.

    Args:
        z: embeddings, shape ``(batch, dim)``, float16, bfloat16, float32 or float64.
        axis_name: the mapped axis, or axes, that rows are spread over.
        where: rows that count, shape ``(batch,)``, dtype bool. None: all of them.
        precision: of the matrix products; "highest" keeps TPUs and GPUs from rounding
            their inputs, anything that ``jax.lax.Precision`` names lowers it.

    Returns:
        A scalar, float32 (float64 for float64): 0 where ``dim`` is 1, NaN with fewer
        than two rows that count.

    Raises:
        ValueError: a shape is wrong.
        TypeError: a dtype is wrong.

    Example:
        >>> import jax.numpy as jnp, vicreg_jax
        >>> z = jnp.array([[0.0, 0.0], [2.0, 4.0]])  # C = [[2, 4], [4, 8]]
        >>> print(vicreg_jax.covariance(z))
        16.0

    Reference:
        Bardes et al., VICReg, https://arxiv.org/abs/2105.04906, equations 3 and 4.
    """
    axes = _check.axes(axis_name)
    z = _check.embeddings("z", z, axes)
    where = _check.row_mask(where, z.shape[0])
    return _covariance(z, where, axes=axes, precision=precision)


def statistics_dtype(*arrays: Array) -> jnp.dtype:
    """Returns the dtype to compute in: at least float32."""
    double = any(array.dtype == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def without(
    z: Float[Array, "rows dim"], where: Bool[Array, " rows"] | None
) -> Float[Array, "rows dim"]:
    """Returns `z` with zeros for the rows that do not count.

    Whatever those rows held, NaN included, ends here, and so does their gradient.
    """
    return z if where is None else jnp.where(where[:, None], z, 0)


def invariance_term(
    z1: Float[Array, "rows dim"],
    z2: Float[Array, "rows dim"],
    where: Bool[Array, " rows"] | None,
    axes: Axes,
) -> Float[Array, ""]:
    """Equation 5, as a mean over columns too.

    The views are in the dtype of the statistics, zero in the rows that do not count.
    """
    squares = _squared_differences(z1, z2)
    columns = _rows.as_number(z1.shape[1], z1.dtype)
    entries = _rows.counted(z1, where, axes) * columns
    return _rows.total(jnp.sum(squares), axes) / entries


@jax.checkpoint
def _squared_differences(a, b):
    """Recomputed for the gradient: kept, the differences take as much as a view."""
    return (a - b) ** 2


def variance_term(
    moments: Moments, gamma: Float[Array, ""], eps: Float[Array, ""]
) -> Float[Array, ""]:
    """Equations 1 and 2."""
    std = jnp.sqrt(moments.variances + eps)
    return jnp.mean(jax.nn.relu(gamma - std))


def covariance_term(moments: Moments) -> Float[Array, ""]:
    """Equation 4."""
    variances, off_diagonal = moments
    return off_diagonal / _rows.as_number(variances.shape[0], variances.dtype)


@partial(jax.jit, inline=True, static_argnames="axes")
def _invariance(z1, z2, where, *, axes):
    dtype = statistics_dtype(z1, z2)
    z1, z2 = (without(z, where).astype(dtype) for z in (z1, z2))
    return invariance_term(z1, z2, where, axes)


@partial(jax.jit, inline=True, static_argnames="axes")
def _variance(z, gamma, where, eps, *, axes):
    dtype = statistics_dtype(z)
    gamma, eps = (jax.lax.convert_element_type(a, dtype) for a in (gamma, eps))
    x = without(z, where).astype(dtype)
    return variance_term(moments(x, where, axes, z.dtype, None), gamma, eps)


@partial(jax.jit, inline=True, static_argnames=("axes", "precision"))
def _covariance(z, where, *, axes, precision):
    x = without(z, where).astype(statistics_dtype(z))
    return covariance_term(moments(x, where, axes, z.dtype, precision))
