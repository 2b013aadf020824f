"""The terms of any number of views, and the loss of more than two.

Let ``P`` be the ordered pairs ``(i, j)`` of views, ``j != i``, whose first view is one
of the first ``G``. With ``m`` the mean of those ``G`` views and ``V`` views in all,

    sum_P |z_i - z_j|^2 = (V + G) sum_{v < G} |z_v - m|^2 + G sum_{v >= G} |z_v - m|^2

since a sum of squared distances to all of a group is the group's size times the squared
distance to its mean, plus the group's own spread. So all pairs cost one pass over the
views, and the differences are taken before they are squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax import _check, _rows
from vicreg_jax._moments import mask_rows, moments, statistics_dtype
from vicreg_jax._terms import (
    VICRegTerms,
    covariance_term,
    invariance_term,
    variance_term,
)

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName, RowMask, Scalar, Views


def multiview_loss(
    views: Views,
    lambd: Scalar,
    mu: Scalar,
    nu: Scalar = 1.0,
    gamma: Scalar = 1.0,
    *,
    global_views: int | None = None,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    eps: Scalar = 1e-4,
    precision: PrecisionLike = "highest",
) -> Float[Array, ""]:
    """The VICReg loss of two or more views of one batch.

    ``lambd * mean_P s(z_i, z_j) + 2 * mean_v(mu * v(z_v) + nu * c(z_v))``, with the
    terms of `invariance`, `variance` and `covariance`. ``P`` holds every pair of views,
    or every ordered pair whose first view is one of the first ``global_views``.

    With two views this is `vicreg_loss`, with the same weights: variance and covariance
    are twice their mean over the views, which at two views is their sum. The balance of
    the terms therefore does not depend on the number of views. For a sum over ``V``
    views, multiply ``mu`` and ``nu`` by ``V / 2``.

    Time and memory grow with the number of views, not with the number of pairs.

    Args:
        views: Embeddings of two or more views, an array of shape
            ``(views, batch, dim)`` or a sequence of arrays of shape ``(batch, dim)``;
            float16, bfloat16, float32 or float64. Row i of every view comes from the
            same sample.
        lambd: Weight of the invariance term.
        mu: Weight of the variance term.
        nu: Weight of the covariance term.
        gamma: As in `vicreg_loss`.
        global_views: Number of leading views that are paired with every other view.
            None: all of them.
        axis_name: As in `vicreg_loss`.
        where: As in `vicreg_loss`.
        eps: As in `vicreg_loss`.
        precision: As in `vicreg_loss`.

    Returns:
        A scalar, float32, or float64 if a view is float64. NaN with fewer than two
        included rows.

    Raises:
        ValueError: If there are fewer than two views, a shape is wrong,
            ``global_views`` is not between 1 and the number of views, ``gamma`` or
            ``eps`` is a negative number, or ``axis_name`` is not bound.
        TypeError: If a dtype is wrong.

    Example:
        >>> import jax.numpy as jnp, vicreg_jax
        >>> z = jnp.array([[0.0, 0.0], [0.5, 0.5]])
        >>> print(vicreg_jax.multiview_loss([z, z + 1, z + 2], 1.0, 0.0, 0.0))
        2.0

    Reference:
        Bardes et al., VICRegL, https://arxiv.org/abs/2210.01571, section 3.
    """
    axes, arrays, checked = _checked(views, gamma, axis_name, where, eps)
    weights = (
        _check.scalar("lambd", lambd),
        _check.scalar("mu", mu),
        _check.scalar("nu", nu),
    )
    return view_loss(
        arrays,
        *checked,
        weights,
        global_views=_check.global_views(global_views, len(arrays)),
        axes=axes,
        precision=precision,
    )


def multiview_terms(
    views: Views,
    gamma: Scalar = 1.0,
    *,
    global_views: int | None = None,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    eps: Scalar = 1e-4,
    precision: PrecisionLike = "highest",
) -> VICRegTerms:
    """The three terms of `multiview_loss` before they are weighted.

    Args:
        views: As in `multiview_loss`.
        gamma: As in `vicreg_loss`.
        global_views: As in `multiview_loss`.
        axis_name: As in `vicreg_loss`.
        where: As in `vicreg_loss`.
        eps: As in `vicreg_loss`.
        precision: As in `vicreg_loss`.

    Returns:
        The mean of the invariance over the pairs, and twice the mean of the variance
        and of the covariance over the views: three scalars, float32, or float64 if a
        view is float64.

    Raises:
        ValueError: As in `multiview_loss`.
        TypeError: If a dtype is wrong.

    Example:
        >>> import jax.numpy as jnp, vicreg_jax
        >>> z = jnp.array([[0.0, 0.0], [0.5, 0.5]])
        >>> print(vicreg_jax.multiview_terms([z, z + 1, z + 2]).covariance)
        0.03125

    Reference:
        Bardes et al., VICRegL, https://arxiv.org/abs/2210.01571, section 3.
    """
    axes, arrays, checked = _checked(views, gamma, axis_name, where, eps)
    return view_terms(
        arrays,
        *checked,
        global_views=_check.global_views(global_views, len(arrays)),
        axes=axes,
        precision=precision,
    )


def _checked(views, gamma, axis_name, where, eps):
    axes = _check.axes(axis_name)
    arrays = _check.multiview("views", views, axes)
    where = _check.row_mask(where, arrays[0].shape[0])
    gamma = _check.not_negative("gamma", gamma)
    return axes, arrays, (gamma, where, _check.not_negative("eps", eps))


@partial(jax.jit, inline=True, static_argnames=("global_views", "axes", "precision"))
def view_terms(
    views, gamma, where, eps, *, global_views, axes, precision
) -> VICRegTerms:
    """Returns the terms of checked views, of any floating dtypes."""
    dtype = statistics_dtype(*views)
    gamma, eps = (jax.lax.convert_element_type(a, dtype) for a in (gamma, eps))
    # Cast once for all terms. Their gradients may nearly cancel, so they are added in
    # the statistics' dtype and rounded to the views' dtype afterwards. Cast for each
    # term, they were 30% off in bfloat16, and are 0.17% off this way.
    x = [mask_rows(z, where).astype(dtype) for z in views]
    of_views = [
        moments(rows, where, axes, z.dtype, precision)
        for rows, z in zip(x, views, strict=True)
    ]
    # The general form would round the mean of the two views as well.
    if len(x) == 2:
        invariance = invariance_term(x[0], x[1], where, axes)
    else:
        invariance = _pairs_invariance(x, global_views, where, axes)
    return VICRegTerms(
        invariance=invariance,
        variance=_twice_the_mean([variance_term(m, gamma, eps) for m in of_views]),
        covariance=_twice_the_mean([covariance_term(m) for m in of_views]),
    )


@partial(jax.jit, inline=True, static_argnames=("global_views", "axes", "precision"))
def view_loss(views, gamma, where, eps, weights, *, global_views, axes, precision):
    """Returns the weighted sum of the terms of checked views."""
    settings = {"global_views": global_views, "axes": axes, "precision": precision}
    return view_terms(views, gamma, where, eps, **settings).weighted_sum(*weights)


def _twice_the_mean(values: Sequence[Array]) -> Array:
    # With two views the factor is 1, which keeps the bits of their sum.
    return reduce(add, values) * (2 / len(values))


def _pairs_invariance(views, global_views, where, axes):
    many = len(views)
    squares = _squares_to_mean(views, global_views)
    # V + G for the leading views and G for the others, as derived above.
    weights = np.full(many, global_views, squares.dtype)
    weights[:global_views] += many
    # Ordered pairs: two leading views are a pair in both orders.
    pairs = global_views * (many - 1)
    columns = _rows.as_number(views[0].shape[1], squares.dtype)
    entries = _rows.counted(views[0], where, axes) * columns
    return _rows.total(jnp.sum(squares * weights), axes) / (entries * pairs)


@partial(jax.checkpoint, static_argnums=1)
def _squares_to_mean(views, global_views):
    """Returns the squared distance of each view to the mean of the leading ones.

    The differences to the first view are taken first. They are as small as the pairs'
    own, so that the mean rounds no more than those, however far the views are from 0.
    Recomputed for the gradient: kept, they take as much memory as the views.
    """
    # Stacked, the sums over views are reductions, which compilers compute once; chains
    # of additions they compute again for the gradient of every view.
    stacked = jnp.stack(views)
    shifted = stacked - stacked[:1]
    differences = shifted - jnp.mean(shifted[:global_views], axis=0, keepdims=True)
    return jnp.sum(differences**2, axis=(1, 2))
