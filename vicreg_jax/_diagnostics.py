"""Diagnostics of embeddings: collapse, effective rank, the covariance floor."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from vicreg_jax import _check, _rows
from vicreg_jax._moments import (
    mask_rows,
    moments,
    statistics_dtype,
    uses_gram_matrix,
)
from vicreg_jax._terms import covariance_term

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName, Embeddings, RowMask, Scalar


COLLAPSED_STD = 0.1  # a healthy column has a standard deviation of about 1


class Diagnostics(NamedTuple):
    """The health of one batch of embeddings, each a scalar.

    Attributes:
        std_mean: Mean standard deviation of the columns.
        std_min: Smallest standard deviation of a column.
        collapsed: Share of columns, 0 to 1, with a standard deviation below
            ``collapsed_std``.
        effective_rank: RankMe, from 1 to ``min(batch, dim)``.
        covariance: The covariance term of the loss.
        covariance_floor: The lowest covariance term possible with these variances.
        covariance_condition: How much rounding errors grow in the covariance term and
            its gradient. It is usually 1 to 2. Above 1e3, when a few columns are much
            wider than all others, few digits are correct in float32.
    """

    std_mean: Float[Array, ""]
    std_min: Float[Array, ""]
    collapsed: Float[Array, ""]
    effective_rank: Float[Array, ""]
    covariance: Float[Array, ""]
    covariance_floor: Float[Array, ""]
    covariance_condition: Float[Array, ""]


def diagnostics(
    z: Embeddings,
    *,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    collapsed_std: Scalar = COLLAPSED_STD,
) -> Diagnostics:
    """Returns statistics that tell collapsed embeddings from healthy ones.

    The covariance floor answers "is a covariance of 6.5 broken?". The sample covariance
    ``C`` has rank ``n - 1`` at most, so ``sum_ij C_ij^2 >= tr(C)^2 / (n - 1)``. With
    variances ``v_j`` the covariance term is therefore at least
    ``((sum_j v_j)^2 / (n - 1) - sum_j v_j^2) / dim``. For unit variances that is
    ``dim / (n - 1) - 1``: 3 for 2048 rows of 8192 columns, 31 for 256 rows. With more
    rows than columns the floor is 0.

    The condition of the covariance is ``sum_ij C_ij^2 / sum_{i != j} C_ij^2`` if the
    term is computed from the ``batch x batch`` Gram matrix, which subtracts the
    diagonal (see `covariance`), and 1 otherwise.

    The effective rank is the exponential of the entropy of the normalized singular
    values of ``z``, not centered, as RankMe defines it. It needs all rows in one
    place: every device gathers them and computes the same result.

    Args:
        z: Embeddings, shape ``(batch, dim)``, float16, bfloat16, float32 or float64.
        axis_name: The mapped axis or axes that the rows are spread over.
        where: The rows to include, shape ``(batch,)``, dtype bool. None: all of them.
        collapsed_std: Columns with a smaller standard deviation count as collapsed.

    Returns:
        Scalars, float32, or float64 if `z` is float64. All except the effective rank
        are NaN with fewer than two included rows.

    Raises:
        ValueError: If a shape is wrong, ``collapsed_std`` is a negative number, or
            ``axis_name`` is not bound.
        TypeError: If a dtype is wrong.

    Example:
        >>> import jax, vicreg_jax
        >>> z = jax.random.normal(jax.random.key(0), (256, 2048)).at[:, :512].set(0)
        >>> health = vicreg_jax.diagnostics(z)
        >>> print(health.collapsed, health.covariance > health.covariance_floor)
        0.25 True

    Reference:
        Garrido et al., RankMe, https://arxiv.org/abs/2210.02885, equation 1.
    """
    axes = _check.axes(axis_name)
    z = _check.embeddings("z", z, axes)
    where = _check.row_mask(where, z.shape[0])
    collapsed_std = _check.not_negative("collapsed_std", collapsed_std)
    return _diagnostics(z, where, collapsed_std, axes=axes)


@partial(jax.jit, inline=True, static_argnames="axes")
def _diagnostics(z, where, collapsed_std, *, axes) -> Diagnostics:
    # Gathered before the cast, so that rows travel in their own dtype. On an Explicit
    # mesh JAX has no SVD of a sharded matrix.
    z = _rows.replicated(_rows.gathered(mask_rows(z, where), axes))
    z = z.astype(statistics_dtype(z))
    where = None if where is None else _rows.gathered(where, axes)
    rows = _rows.counted(z, where, ())
    second = moments(z, where, (), z.dtype, "highest")
    std = jnp.sqrt(second.variances)
    collapsed_std = jax.lax.convert_element_type(collapsed_std, z.dtype)
    # A comparison with NaN is False, which would count unknown columns as healthy.
    collapsed = jnp.where(jnp.isnan(std), std, (std < collapsed_std).astype(z.dtype))
    trace, squares = jnp.sum(second.variances), jnp.sum(second.variances**2)
    # Times 0 instead of 0, which would hide NaN.
    subtracted = squares if uses_gram_matrix(*z.shape) else 0 * squares
    found = Diagnostics(
        std_mean=jnp.mean(std),
        std_min=jnp.min(std),
        collapsed=jnp.mean(collapsed),
        effective_rank=_rankme(z),
        covariance=covariance_term(second),
        covariance_floor=jnp.maximum(trace**2 / (rows - 1) - squares, 0) / std.size,
        # In full collapse both sums are 0; the condition is then 1.
        covariance_condition=jnp.where(
            subtracted > 0, 1 + subtracted / second.off_diagonal, 1 + 0 * subtracted
        ),
    )
    # Every device has the same values. The mean makes that known to `shard_map`.
    return jax.tree.map(lambda a: _rows.total(a, axes) / _rows.devices(axes), found)


def _rankme(z):
    singular = jnp.linalg.svd(z, compute_uv=False)
    # All singular values may be 0.
    largest = jnp.maximum(jnp.sum(singular), jnp.finfo(z.dtype).tiny)
    # The paper's constant for float32.
    shares = singular / largest + 1e-7
    return jnp.exp(-jnp.sum(shares * jnp.log(shares)))
