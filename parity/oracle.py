"""The loss in float64 NumPy, and bounds on what rounding can do to it.

The value is Algorithm 1 of arXiv:2105.04906. The gradients are derived by hand, so that
the oracle shares no differentiation with the code under test.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WEIGHTS = (25.0, 25.0, 1.0)


def stored(want: np.ndarray, info) -> np.ndarray:
    """Returns the largest error of each entry when results are rounded to a dtype.

    Args:
        want: The exact entries.
        info: `finfo` of the dtype.
    """
    # Half an eps. Below the smallest normal number it is half a subnormal, doubled for
    # the scaling before the rounding.
    return float(info.eps) / 2 * np.abs(want) + float(info.smallest_subnormal)


class Result(NamedTuple):
    """Terms, their weighted total, and the gradients of the total."""

    invariance: float
    variance: float
    covariance: float
    total: float
    dz1: np.ndarray
    dz2: np.ndarray


class Bounds(NamedTuple):
    """Largest errors that rounding alone explains.

    Attributes:
        invariance: Bound of the term.
        variance: Bound of the term.
        covariance: Bound of the term.
        total: Bound of the loss.
        dz1: Bound of each entry of the gradient of the first view.
        dz2: Bound of each entry of the gradient of the second view.
    """

    invariance: float
    variance: float
    covariance: float
    total: float
    dz1: np.ndarray
    dz2: np.ndarray


class _Error(NamedTuple):
    """Bounds on the errors of one unweighted term and of its gradient's entries."""

    value: float
    gradient: np.ndarray


class _Centered(NamedTuple):
    """One view's exact moments, and the rounding errors of mean and centering.

    Attributes:
        x: Centered rows.
        c: Sample covariance.
        dmean: Error of the mean, by column. All rows of `x` share it.
        dx: Other error of an entry of `x`, by column.
        dv: Error of a variance, by column.
        unit: Unit roundoff of the computation.
        inputs: Unit roundoff of the inputs of matrix products. 0: not rounded.
    """

    x: np.ndarray
    c: np.ndarray
    dmean: np.ndarray
    dx: np.ndarray
    dv: np.ndarray
    unit: float
    inputs: float

    def sums(self, k: int) -> float:
        """Returns a relative bound on the error of a sum of `k` products.

        It is exceeded with negligible probability only.
        """
        return 8 * np.sqrt(k) * self.unit


def numpy_loss(z1, z2, weights=WEIGHTS, gamma=1.0, eps=1e-4) -> Result:
    """Returns terms, total and gradients in float64.

    Args:
        z1: One view, shape (n, d).
        z2: The other view.
        weights: `lambd`, `mu` and `nu`.
        gamma: Target standard deviation.
        eps: Added to the variances.
    """
    z1, z2 = (np.asarray(z, np.float64) for z in (z1, z2))
    lambd, mu, nu = weights
    n, d = z1.shape
    difference = z1 - z2
    terms = [np.mean(difference**2), 0.0, 0.0]
    gradients = [sign * lambd * 2 * difference / (n * d) for sign in (1, -1)]
    for view, z in enumerate((z1, z2)):
        x = z - z.mean(0)
        off = x.T @ x / (n - 1)
        std = np.sqrt(np.diag(off) + eps)
        np.fill_diagonal(off, 0)
        terms[1] += np.mean(np.maximum(gamma - std, 0))
        terms[2] += np.sum(off**2) / d
        # Strictly below, as PyTorch's `relu` has a gradient of 0 at its kink.
        hinge = np.where(std < gamma, -1 / (d * (n - 1) * std), 0) * x
        gradients[view] += mu * hinge + nu * 4 * x @ off / (d * (n - 1))
    total = float(np.dot(weights, terms))
    invariance, variance, covariance = map(float, terms)
    return Result(invariance, variance, covariance, total, gradients[0], gradients[1])


def rounding_bounds(
    z1,
    z2,
    unit,
    weights=WEIGHTS,
    gamma=1.0,
    eps=1e-4,
    *,
    gram=None,
    inputs=0.0,
    exact=None,
) -> Bounds:
    """Returns bounds on the rounding errors of the loss at these inputs.

    The model is that of Higham and Mary (SIAM J. Sci. Comput. 41, 2019): rounding
    errors are independent, and with near certainty a sum of k products is off by at
    most `8 sqrt(k) unit` times the sum of their magnitudes. Errors are followed entry
    by entry through centering, product, square and weights: to first order, and to
    second order where the first vanishes. No constant is fitted. Independent errors add
    as the root of the sum of squares. An error of a column's mean changes a covariance
    to second order only, since centered columns sum to zero.

    Args:
        z1: One view, exactly as the loss gets it, shape (n, d).
        z2: The other view.
        unit: Unit roundoff of the computation.
        weights: `lambd`, `mu` and `nu`.
        gamma: Target standard deviation.
        eps: Added to the variances.
        gram: Whether the product is the n x n Gram matrix. None: if 2n <= d.
        inputs: Unit roundoff of the inputs of matrix products, below the highest
            precision.
        exact: The result of `numpy_loss` for the same arguments, if known already.
    """
    z1, z2 = (np.asarray(z, np.float64) for z in (z1, z2))
    n, d = z1.shape
    if exact is None:
        exact = numpy_loss(z1, z2, weights, gamma, eps)
    # As `vicreg_jax._moments.uses_gram_matrix` decides.
    gram = 2 * n <= d if gram is None else gram
    views = [_centered(z, unit, inputs) for z in (z1, z2)]
    of_product = _gram_error if gram else _covariance_error
    invariance = _invariance_error(z1, z2, unit)
    variances = [_variance_error(view, gamma, eps) for view in views]
    covariances = [of_product(view) for view in views]
    values = (
        float(invariance.value),
        float(sum(error.value for error in variances)),
        float(sum(error.value for error in covariances)),
    )
    lambd, mu, nu = weights
    dz1, dz2 = (
        lambd * invariance.gradient + mu * variance.gradient + nu * covariance.gradient
        for variance, covariance in zip(variances, covariances, strict=True)
    )
    # The second part is for the weighted sum itself, of three products.
    total = float(np.dot(weights, values)) + 4 * unit * abs(exact.total)
    return Bounds(*values, total=total, dz1=dz1, dz2=dz2)


def _centered(z, unit, inputs) -> _Centered:
    n = len(z)
    x = z - z.mean(0)
    c = x.T @ x / (n - 1)
    v, largest = np.diag(c), np.abs(x).max(0)
    sums = 8 * np.sqrt(n) * unit
    dmean, dx = sums * np.abs(z).max(0), unit * largest
    # The error of the mean changes a variance to second order only. dx is the rounding
    # of z - mean.
    dv = sums * v + 4 * np.sqrt(v) * dx + 2 * (dmean + dx) ** 2
    return _Centered(x, c, dmean, dx, dv, unit, inputs)


def _invariance_error(z1, z2, unit) -> _Error:
    size, difference = z1.size, np.abs(z1 - z2)
    # The 4 units are those of the difference, which is squared, the square and the
    # mean.
    value = (8 * np.sqrt(size) + 4) * unit * np.mean(difference**2)
    return _Error(value, 2 * 4 * unit * difference / size)


def _variance_error(view: _Centered, gamma, eps) -> _Error:
    (n, d), unit = view.x.shape, view.unit
    std = np.sqrt(np.diag(view.c) + eps)
    dstd = view.dv / (2 * std) + 2 * unit * std
    slack = dstd + 2 * unit * gamma
    near = gamma - std + dstd > 0
    value = np.mean(np.where(near, slack, 0)) + view.sums(d) * gamma
    hinge = np.where(near, 1 / (d * (n - 1) * std), 0)
    # Where rounding decides on which side of the hinge a column falls, all of its
    # gradient may be wrong. Without rounding, none of it is.
    undecided = np.where((np.abs(gamma - std) <= slack) & (slack > 0), 1.0, 0.0)
    size = np.abs(view.x)
    gradient = view.dmean + view.dx + (4 * unit + dstd / std + undecided) * size
    return _Error(float(value), hinge * gradient)


def _gram_error(view: _Centered) -> _Error:
    """Returns the errors of the form that uses the n x n product `K`.

    The diagonal part is subtracted from the total. The gradient is `K X - X diag(v)`.
    An error `e` of the mean adds `X e` to each column of `K` and `e X^T` to each row.
    The first vanishes, since it is multiplied by columns of `X` that sum to zero. The
    second gives `C e`, the same in all rows.
    """
    x, unit, v = view.x, view.unit, np.diag(view.c)
    n, d = x.shape
    dof, size = n - 1, np.abs(x)
    k = x @ x.T / dof
    lengths = np.linalg.norm(x, axis=1)
    # The rounding of the product's sum, and that of x - mean.
    dk = view.sums(d) * np.outer(lengths, lengths) / dof
    dk = np.hypot(dk, 16 * lengths[:, None] * np.linalg.norm(view.dx) / dof)
    narrowed = 2 * view.inputs * np.outer(lengths, lengths) / dof
    of_mean = np.linalg.norm(x * view.dmean, axis=1)[:, None] * np.sqrt(2) / dof
    energy = 2 * np.linalg.norm(k * np.hypot(dk, of_mean)) + np.sum(dk**2)
    energy += 2 * np.sum(np.abs(k) * narrowed) + np.sum(narrowed**2)
    energy += (np.sum(view.dmean**2) * n / dof) ** 2 + view.sums(n * n) * np.sum(k**2)
    energy += 2 * np.linalg.norm(v) * np.linalg.norm(view.dv) + np.sum(view.dv**2)
    energy += view.sums(d) * np.sum(v**2)
    gradient = np.sqrt(dk**2 @ x**2) + narrowed @ size
    gradient += 8 * np.linalg.norm(k, axis=1)[:, None] * view.dx
    gradient += np.sqrt(view.c**2 @ view.dmean**2)
    gradient += (view.sums(n) + 4 * unit + 2 * view.inputs) * (np.abs(k) @ size)
    gradient += size * view.dv + v * (view.dmean + view.dx) + 4 * unit * size * v
    return _Error(float(energy / d), 4 * gradient / (d * dof))


def _covariance_error(view: _Centered) -> _Error:
    """Returns the errors of the form that uses the d x d product `C`.

    The diagonal is removed before squaring. The gradient is `X C`. An error `e`
    of the mean adds `e e^T` to `C`, and `C e` to each row of the gradient.
    """
    x, unit = view.x, view.unit
    n, d = x.shape
    dof, size = n - 1, np.abs(x)
    off = view.c - np.diag(np.diag(view.c))
    lengths = np.linalg.norm(x, axis=0)
    # The rounding of the product's sum, and that of x - mean.
    dc = view.sums(n) * np.outer(lengths, lengths) / dof
    of_inputs = 8 * np.outer(lengths, view.dx) / dof
    dc = np.sqrt(dc**2 + of_inputs**2 + of_inputs.T**2)
    narrowed = 2 * view.inputs * np.outer(lengths, lengths) / dof
    # Neither of these errors is independent between entries.
    common = narrowed + np.outer(view.dmean, view.dmean) * n / dof
    energy = 2 * np.sqrt(2) * np.linalg.norm(off * dc) + np.sum(dc**2)
    energy += 2 * np.sum(np.abs(off) * common) + np.sum(common**2)
    energy += view.sums(d * d) * np.sum(off**2)
    gradient = np.sqrt(x**2 @ dc**2) + size @ common
    gradient += np.sqrt(off**2 @ (view.dmean**2 + (8 * view.dx) ** 2))
    gradient += (view.sums(d) + 4 * unit + 2 * view.inputs) * (size @ np.abs(off))
    return _Error(float(energy / d), 4 * gradient / (d * dof))
