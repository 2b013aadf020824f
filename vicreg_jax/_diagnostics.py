"""Is this value normal? What to look at beside the loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from vicreg_jax import _check, _rows
from vicreg_jax._moments import moments, subtracts_diagonal
from vicreg_jax._terms import covariance_term, statistics_dtype, without

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName, Embeddings, RowMask, Scalar


COLLAPSED_STD = 0.1  # a healthy column has a standard deviation of about 1


class Diagnostics(NamedTuple):
    """The health of one batch of embeddings, each a scalar.

    Attributes:
        std_mean: mean over the columns of their standard deviation.
        std_min: that of the column that spreads least.
        collapsed: share of the columns that spread less than ``collapsed_std``, 0 to 1.
        effective_rank: RankMe, 1 to ``min(batch, dim)``.
        covariance: the covariance term of the loss.
        covariance_floor: the least that it can be at the present variances.
        covariance_condition: by how much rounding errors grow in the covariance, and
            in its gradient. About 1 to 2 is usual. From 1e3 on, where a few columns
            outweigh all others, few digits are right in float32.
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
    """Tells collapsed embeddings from healthy ones.

    The covariance floor answers "is a covariance of 6.5 broken?". ``C`` has rank
    ``n - 1`` at most, so ``sum_ij C_ij^2 >= tr(C)^2 / (n - 1)``, and the term is at
    least ``((sum_j v_j)^2 / (n - 1) - sum_j v_j^2) / dim`` with the variances ``v``:
    at unit variances ``dim / (n - 1) - 1``, which is 3 for 2048 rows of 8192 columns,
    and 31 for 256. With more rows than columns the floor is 0.

    The covariance's condition is ``sum_ij C_ij^2 / sum_{i != j} C_ij^2`` where the term
    comes from the ``batch x batch`` product, of which the diagonal is taken off: see
    `covariance`. Otherwise it is 1.

    The effective rank is the exponential of the entropy of the singular values of
    ``z``, not centred, as RankMe defines it. That needs all rows in one place: every
    device gathers them and does the same.

    Args:
        z: embeddings, shape ``(batch, dim)``, float16, bfloat16, float32 or float64.
        axis_name: the mapped axis, or axes, that rows are spread over.
        where: rows that count, shape ``(batch,)``, dtype bool. None: all of them.
        collapsed_std: a column that spreads less counts as collapsed.

    Returns:
        Scalars, float32 (float64 for float64); all but the effective rank are NaN with
        fewer than two rows that count.

    Raises:
        ValueError: a shape is wrong, ``collapsed_std`` is a negative number, or
            ``axis_name`` is not bound.
        TypeError: a dtype is wrong.

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
    z = _rows.replicated(_rows.gathered(without(z, where), axes))
    z = z.astype(statistics_dtype(z))
    where = None if where is None else _rows.gathered(where, axes)
    rows = _rows.counted(z, where, ())
    second = moments(z, where, (), z.dtype, "highest")
    std = jnp.sqrt(second.variances)
    collapsed_std = jax.lax.convert_element_type(collapsed_std, z.dtype)
    collapsed = jnp.where(jnp.isnan(std), std, (std < collapsed_std).astype(z.dtype))
    trace, squares = jnp.sum(second.variances), jnp.sum(second.variances**2)
    subtracted = squares if subtracts_diagonal(*z.shape) else 0 * squares
    found = Diagnostics(
        std_mean=jnp.mean(std),
        std_min=jnp.min(std),
        collapsed=jnp.mean(collapsed),
        effective_rank=_rankme(z),
        covariance=covariance_term(second),
        covariance_floor=jnp.maximum(trace**2 / (rows - 1) - squares, 0) / std.size,
        # Nothing beside the diagonal, as in collapse, is a condition of 1 as well.
        covariance_condition=jnp.where(
            subtracted > 0, 1 + subtracted / second.off_diagonal, 1 + 0 * subtracted
        ),
    )
    # All devices have the same by now; their mean says so to `shard_map`.
    return jax.tree.map(lambda a: _rows.total(a, axes) / _rows.devices(axes), found)


def _rankme(z):
    singular = jnp.linalg.svd(z, compute_uv=False)
    largest = jnp.maximum(jnp.sum(singular), jnp.finfo(z.dtype).tiny)  # all may be 0
    shares = singular / largest + 1e-7
    return jnp.exp(-jnp.sum(shares * jnp.log(shares)))
