r"""The second moments of one view, and their gradients.

The variance and the covariance term of a view depend on the embeddings ``Z`` only
through the sample covariance (equation 3 of arXiv:2105.04906)

    C = X^T X / (n - 1),    X = Z - mean(Z)    (n rows, d columns)

and of ``C`` only through two things: its diagonal, which holds the variances ``v_j``
(equation 1), and the sum of its squared off-diagonal entries (equation 4)

    E = sum_{i != j} C_ij^2.

Gradients
---------
Write ``C_off`` for ``C`` with zeros on its diagonal and ``<A, B>`` for
``sum_ij A_ij B_ij``. From ``dC = (dX^T X + X^T dX) / (n - 1)`` and the symmetry of
``C_off``:

    dv_j = 2 / (n - 1) sum_i X_ij dX_ij
    dE   = 2 <C_off, dC> = 4 / (n - 1) <X C_off, dX>.

The factor 2 comes from the square in ``v_j``. The factor 4 comes from the square in
``E`` times the two places where ``X`` occurs in ``C``.

Centering needs no gradient of its own. It is the projection ``X = H Z`` with
``H = I - 1 1^T / n``, so ``<G, dX> = <H G, dZ>``. Both gradients above have the form
``G = X A``, whose columns sum to zero because those of ``X`` do. Hence ``H G = G``, and
``dX`` may be replaced by ``dZ``.

The smaller product
-------------------
``E`` needs the d x d matrix only if ``d`` is small. With the n x n Gram matrix
``K = X X^T / (n - 1)``, whose Frobenius norm is that of ``C``,

    E       = |K|^2 - sum_j v_j^2
    X C_off = K X - X diag(v).

This costs ``n / d`` of the arithmetic and ``(n / d)^2`` of the memory, and again only
one product for the value and one for the gradient. `uses_gram_matrix` says when the
subtraction is safe.

Why a custom JVP: automatic differentiation runs two products where ``X C_off`` is one,
and it differentiates the centering. A custom JVP, unlike a custom VJP, composes with
forward mode, with Hessian-vector products, and with collectives in every mapping mode.
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
    """What the variance and the covariance term need of a sample covariance ``C``.

    Attributes:
        variances: ``C_jj``, shape ``(dim,)``.
        off_diagonal: ``sum_{i != j} C_ij^2``, a scalar.
    """

    variances: Float[Array, " dim"]
    off_diagonal: Float[Array, ""]


class _Gradients(NamedTuple):
    """The gradients of the moments without their factors 2 and 4.

    Attributes:
        variances: ``X / (n - 1)``; column j belongs to variance j.
        off_diagonal: ``X C_off / (n - 1)``.
    """

    variances: Float[Array, "rows dim"]
    off_diagonal: Float[Array, "rows dim"]


def statistics_dtype(*arrays: Array) -> jnp.dtype:
    """Returns the dtype to compute in: float64 if any array is, else float32."""
    double = any(array.dtype == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def mask_rows(
    z: Float[Array, "rows dim"], where: Bool[Array, " rows"] | None
) -> Float[Array, "rows dim"]:
    """Returns `z` with zeros in the rows that `where` excludes.

    Those rows may hold anything, NaN included. They get a gradient of zero.
    """
    return z if where is None else jnp.where(where[:, None], z, 0)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def moments(
    z: Float[Array, "rows dim"],
    where: Bool[Array, " rows"] | None,
    axes: Axes,
    transfer_dtype: DTypeLike,
    precision: PrecisionLike,
) -> Moments:
    """Returns the second moments of the rows of `z` that `where` includes.

    Args:
        z: One view in the dtype of the statistics, zero in excluded rows.
        where: The rows to include, or None for all of them.
        axes: The mapped axes that the rows are spread over.
        transfer_dtype: The dtype in which rows travel between devices. It is the dtype
            that the view had before it was cast, so casting back loses nothing.
        precision: The precision of the matrix products.
    """
    value, _ = _moments_and_gradients(z, where, axes, transfer_dtype, precision)
    return value


@moments.defjvp
def _moments_jvp(axes, transfer_dtype, precision, primals, tangents):
    # The mask is bool and has no tangent.
    (z, where), dz = primals, tangents[0]
    value, gradients = _moments_and_gradients(z, where, axes, transfer_dtype, precision)
    return value, Moments(
        variances=2 * _rows.total(jnp.sum(gradients.variances * dz, axis=0), axes),
        off_diagonal=4 * _rows.total(jnp.sum(gradients.off_diagonal * dz), axes),
    )


def _moments_and_gradients(
    z, where, axes, transfer_dtype, precision
) -> tuple[Moments, _Gradients]:
    count = _rows.counted(z, where, axes)
    # With no row included the degrees of freedom are 0, not -1, so that the result is
    # NaN as it is with one row.
    dof = count - 1 if where is None else jnp.maximum(count - 1, 0)
    mean = _rows.total(jnp.sum(z, axis=0), axes) / count
    # Before anything is squared: E[z^2] - E[z]^2 would lose the digits that a large
    # mean takes up.
    x = _centered(z, where, mean)
    variances = _rows.total(jnp.sum(x**2, axis=0), axes) / dof
    # Excluded rows count here. How many are included is known only when the program
    # runs.
    if uses_gram_matrix(z.shape[0] * _rows.devices(axes), z.shape[1]):

        def gathered_along(some_axes):
            return _gathered(z, where, mean, x, some_axes, transfer_dtype)

        split = _rows.split(axes, transfer_dtype, z.dtype)
        # Without left axes the rows of the block are this device's own.
        left = gathered_along(split.left) if split.left else x
        right = gathered_along(split.right)
        block = _rows.matmul(left, right.T, precision) / dof
        # The blocks of the devices tile `K`, so this sum counts each entry once.
        energy = _rows.total(jnp.sum(block**2), axes) - jnp.sum(variances**2)
        # Without the barrier the compiler fuses this product with the sums over
        # devices that follow, and keeps all gathered rows in memory until they arrive.
        product = barrier(_rows.matmul(block, right, precision, like=left))
        # Along `left`, devices have the same rows of `K` and different columns, so
        # their products add up to `K X`. Each keeps its own rows of the sum.
        off_diagonal = _rows.scattered(product, split.left) - x * variances[None]
    else:
        covariances = _rows.total(_rows.matmul(x.T, x, precision), axes) / dof
        diagonal = jnp.eye(covariances.shape[0], dtype=bool)
        # Removed before squaring, so nothing cancels.
        covariances = jnp.where(diagonal, 0, covariances)
        energy = jnp.sum(covariances**2)
        off_diagonal = _rows.matmul(x, covariances, precision, like=x)
    # Rounding can make the difference of two sums slightly negative.
    value = Moments(variances, jnp.maximum(energy, 0))
    return value, _Gradients(variances=x / dof, off_diagonal=off_diagonal / dof)


def _centered(z, where, mean):
    x = z - mean[None]
    # Excluded rows were zero, and are minus the mean now.
    return x if where is None else jnp.where(where[:, None], x, 0)


def _gathered(z, where, mean, x, axes, transfer_dtype):
    """Returns the centered rows of all devices along `axes`; `x` are this device's.

    Rows travel once, uncentered, in `transfer_dtype`. The barriers stop the compiler
    from merging common subexpressions. Without them it gathers the broadcast mean as
    well, because own and gathered rows share it, and it centers once for each product.
    """
    # No narrower dtype to travel in, so the rows are sent centered.
    if z.dtype == transfer_dtype:
        return _rows.gathered(x, axes)
    narrow = z.astype(transfer_dtype)
    raw = _rows.gathered(narrow, axes)
    # Nothing to gather without a mesh: `x` has all rows.
    if raw is narrow:
        return x
    mask = None if where is None else _rows.gathered(where, axes)
    return barrier(_centered(raw.astype(z.dtype), mask, barrier(mean)))


def uses_gram_matrix(rows: Size, dim: Size) -> bool:
    """Returns whether to use the rows x rows Gram matrix instead of dim x dim.

    The Gram form computes ``E = |C|^2 - sum_j v_j^2``, which loses the digits that both
    numbers share. ``C`` has rank ``n - 1`` at most, so ``|C|^2 >= (sum_j v_j)^2 / (n -
    1)``. If the variances are equal, then ``sum_j v_j^2 = (sum_j v_j)^2 / d``, and the
    diagonal is at most ``n / d`` of the total. From ``d = 2 n`` on, that is half of it,
    and the subtraction costs one bit. Near ``d = n`` it could cost all of them.

    Columns of very different variance cancel more; `diagnostics` reports by how much
    (`covariance_condition`). A variant that treats the 4 to 8 heaviest columns
    separately, through their rows of ``X^T X``, kept all digits beside a column 10^4
    times wider. It took 1.03 to 1.05 times as long at 1024x4096, 1.2 at 256x8192 and
    2.0 at 256x2048 (two CPU cores, 2026-11-25), so it was left out.

    For symbolic sizes that do not decide the question, the dim x dim form is used: it
    is accurate for all of them.
    """
    return _rows.at_least(dim, 2 * rows, unknown=False)
