"""The three terms of VICReg: one function for each of the paper's equations.

Each public function checks its arguments at trace time and calls one jitted function.
Those accept embeddings of any floating dtype and compute in float32, or in float64 if
the embeddings are float64. They are inlined, so that a program that calls them shows
their operations.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from vicreg_jax import _check, _rows
from vicreg_jax._moments import Moments, mask_rows, moments, statistics_dtype

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jaxtyping import Array, Bool, Float

    from vicreg_jax._rows import Axes
    from vicreg_jax._types import AxisName, Embeddings, RowMask, Scalar


class VICRegTerms(NamedTuple):
    """The three unweighted terms, each a scalar.

    Attributes:
        invariance: Mean squared difference of the two views.
        variance: Hinge on the standard deviations, summed over the two views.
        covariance: Squared off-diagonal covariances, summed over the two views.
    """

    invariance: Float[Array, ""]
    variance: Float[Array, ""]
    covariance: Float[Array, ""]

    def weighted_sum(self, lambd: Scalar, mu: Scalar, nu: Scalar) -> Float[Array, ""]:
        """Returns ``lambd * invariance + mu * variance + nu * covariance``."""
        dtype = self.invariance.dtype
        # A weight may be an array of any dtype. Left as it is, float64 would promote
        # the loss, and strict promotion would refuse the product with an integer.
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
    """The invariance term: mean squared difference of the two views.

    ``s(Z1, Z2) = mean((Z1 - Z2)^2)`` over all entries. The paper's equation 5 sums
    over the columns instead, which is ``dim`` times this value. Its Algorithm 1 and
    all implementations take the mean.

    Args:
        z1: Embeddings of one view, shape ``(batch, dim)``, float16, bfloat16, float32
            or float64.
        z2: Embeddings of the other view, of the same shape, row i of both from the
            same sample.
        axis_name: The mapped axis or axes that the rows are spread over.
        where: The rows to include, shape ``(batch,)``, dtype bool. None: all of them.

    Returns:
        A scalar, float32, or float64 if a view is float64.

    Raises:
        ValueError: If a shape is wrong.
        TypeError: If a dtype is wrong.

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
    """The variance term of one view: a hinge on the standard deviation of each column.

    ``v(Z) = mean_j max(0, gamma - sqrt(Var(Z_j) + eps))`` with the unbiased variance
    (divided by ``n - 1``). The gradient at the kink is 0, as in PyTorch.

    Args:
        z: Embeddings, shape ``(batch, dim)``, float16, bfloat16, float32 or float64.
        gamma: The target standard deviation of every column.
        axis_name: The mapped axis or axes that the rows are spread over.
        where: The rows to include, shape ``(batch,)``, dtype bool. None: all of them.
        eps: Added to the variance, so that a collapsed column has a finite gradient.

    Returns:
        A scalar, float32, or float64 if `z` is float64. It is 0 if every column has a
        standard deviation of at least ``gamma``, ``gamma - sqrt(eps)`` if all columns
        are constant, and NaN with fewer than two included rows.

    Raises:
        ValueError: If a shape is wrong, or ``gamma`` or ``eps`` is a negative number.
        TypeError: If a dtype is wrong.

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
    """The covariance term of one view: its off-diagonal covariances, squared.

    ``c(Z) = sum_{i != j} C_ij^2 / dim`` with the sample covariance ``C`` (divided by
    ``n - 1``). If ``dim >= 2 * batch``, the value is computed from the
    ``batch x batch`` Gram matrix, otherwise from the ``dim x dim`` covariance.

    Accuracy: the ``dim x dim`` form has no cancellation. The ``batch x batch`` form
    subtracts the diagonal of ``C`` from the sum over all entries, so the absolute error
    of the value and of the gradient is that of the sum including the diagonal. With
    equal variances the diagonal is at most half of the sum, which costs one bit. A few
    columns of much larger variance cost more: if one column is 100 times wider than
    the others, float32 keeps few digits or none. Rescale such columns or pass float64.
    ``diagnostics(z).covariance_condition`` reports how much rounding errors grow.

    Args:
        z: Embeddings, shape ``(batch, dim)``, float16, bfloat16, float32 or float64.
        axis_name: The mapped axis or axes that the rows are spread over.
        where: The rows to include, shape ``(batch,)``, dtype bool. None: all of them.
        precision: The precision of the matrix products, as in `jax.numpy.matmul`.
            "highest" keeps TPUs and GPUs from rounding the inputs.

    Returns:
        A scalar, float32, or float64 if `z` is float64. It is 0 if ``dim`` is 1, and
        NaN with fewer than two included rows.

    Raises:
        ValueError: If a shape is wrong.
        TypeError: If a dtype is wrong.

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


def invariance_term(
    z1: Float[Array, "rows dim"],
    z2: Float[Array, "rows dim"],
    where: Bool[Array, " rows"] | None,
    axes: Axes,
) -> Float[Array, ""]:
    """Equation 5, but averaged over the columns instead of summed.

    The views are in the dtype of the statistics, and zero in excluded rows.
    """
    squares = _squared_differences(z1, z2)
    columns = _rows.as_number(z1.shape[1], z1.dtype)
    entries = _rows.counted(z1, where, axes) * columns
    # Not a mean of the devices' means, as each may include another number of rows.
    return _rows.total(jnp.sum(squares), axes) / entries


@jax.checkpoint
def _squared_differences(a, b):
    """Recomputed in the backward pass: storing them would cost as much as a view."""
    return (a - b) ** 2


def variance_term(
    moments: Moments, gamma: Float[Array, ""], eps: Float[Array, ""]
) -> Float[Array, ""]:
    """Equations 1 and 2."""
    std = jnp.sqrt(moments.variances + eps)
    # Not `jnp.maximum`, whose gradient at the kink is 1/2 where PyTorch's is 0.
    return jnp.mean(jax.nn.relu(gamma - std))


def covariance_term(moments: Moments) -> Float[Array, ""]:
    """Equation 4."""
    variances, off_diagonal = moments
    # The paper divides by `dim`, although there are `dim * (dim - 1)` entries.
    return off_diagonal / _rows.as_number(variances.shape[0], variances.dtype)


@partial(jax.jit, inline=True, static_argnames="axes")
def _invariance(z1, z2, where, *, axes):
    dtype = statistics_dtype(z1, z2)
    z1, z2 = (mask_rows(z, where).astype(dtype) for z in (z1, z2))
    return invariance_term(z1, z2, where, axes)


@partial(jax.jit, inline=True, static_argnames="axes")
def _variance(z, gamma, where, eps, *, axes):
    dtype = statistics_dtype(z)
    gamma, eps = (jax.lax.convert_element_type(a, dtype) for a in (gamma, eps))
    x = mask_rows(z, where).astype(dtype)
    # No precision, because the product is not used, and the compiler removes it.
    return variance_term(moments(x, where, axes, z.dtype, None), gamma, eps)


@partial(jax.jit, inline=True, static_argnames=("axes", "precision"))
def _covariance(z, where, *, axes, precision):
    x = mask_rows(z, where).astype(statistics_dtype(z))
    return covariance_term(moments(x, where, axes, z.dtype, precision))
