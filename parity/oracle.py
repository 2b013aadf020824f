"""The loss in float64 NumPy, and how far from it rounding can take a computation.

The value is Algorithm 1 of arXiv:2105.04906; the gradients are derived by hand, so that
the oracle shares no differentiation with what it judges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WEIGHTS = (25.0, 25.0, 1.0)


class Result(NamedTuple):
    """Terms, total, and the gradients of the total."""

    invariance: float
    variance: float
    covariance: float
    total: float
    dz1: np.ndarray
    dz2: np.ndarray


class Bounds(NamedTuple):
    """How far from the oracle rounding alone can take a result."""

    invariance: float
    variance: float
    covariance: float
    total: float
    gradient: float


class _Doubt(NamedTuple):
    """What rounding can do to one unweighted term, and to its gradient's norm."""

    value: float
    gradient: float


class _Centred(NamedTuple):
    """One view's moments, exact, and the roundings that a computation starts from.

    Attributes:
        x: centred rows.
        c: sample covariance.
        dx: error of an entry of `x`, by column.
        dv: error of a variance, by column.
        unit: roundoff of the dtype that is computed in.
        inputs: roundoff of the matrix products' inputs, 0 where they are not rounded.
    """

    x: np.ndarray
    c: np.ndarray
    dx: np.ndarray
    dv: np.ndarray
    unit: float
    inputs: float

    def sums(self, k: int) -> float:
        """Relative error of a sum of `k` products, but with negligible probability."""
        return 8 * np.sqrt(k) * self.unit


def numpy_loss(z1, z2, weights=WEIGHTS, gamma=1.0, eps=1e-4) -> Result:
    """Returns everything in float64.

    Args:
        z1: one view, shape (n, d).
        z2: the other view.
        weights: lambd, mu and nu.
        gamma: target standard deviation.
        eps: added to the variances.
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
    by_rows=None,
    inputs=0.0,
    exact=None,
) -> Bounds:
    """Bounds the rounding errors of the loss at these inputs.

    The model is Higham and Mary's (SIAM J. Sci. Comput. 41, 2019): a sum of k products
    is off by at most `8 sqrt(k) unit` times the sum of their magnitudes, but with
    negligible probability. The errors are followed, in the Frobenius norm, through
    centring, product, square and weights, to first order, and to second order where
    the first vanishes with the variances; no constant is fitted. The gradient's bound
    is for the Frobenius norm of both views' errors together.

    Args:
        z1: one view, exactly as the loss gets it.
        z2: the other view.
        unit: roundoff of the dtype that is computed in.
        weights: lambd, mu and nu.
        gamma: target standard deviation.
        eps: added to the variances.
        by_rows: whether the product is the n x n one; None: where 2n <= d.
        inputs: what a matrix product rounds its inputs to before it multiplies them,
            below the highest precision.
        exact: what `numpy_loss` says of the same arguments, if it is known already.
    """
    z1, z2 = (np.asarray(z, np.float64) for z in (z1, z2))
    n, d = z1.shape
    if exact is None:
        exact = numpy_loss(z1, z2, weights, gamma, eps)
    by_rows = 2 * n <= d if by_rows is None else by_rows
    views = [_centred(z, unit, inputs) for z in (z1, z2)]
    doubts = [
        _invariance_doubt(z1, z2, unit),
        _sum([_variance_doubt(view, gamma, eps) for view in views]),
        _sum([(_rows_doubt if by_rows else _columns_doubt)(view) for view in views]),
    ]
    total = np.dot(weights, [doubt.value for doubt in doubts])
    gradient = np.dot(weights, [doubt.gradient for doubt in doubts])
    return Bounds(
        *(float(doubt.value) for doubt in doubts),
        total=float(total) + 4 * unit * abs(exact.total),
        gradient=float(gradient),
    )


def _sum(doubts: list[_Doubt]) -> _Doubt:
    return _Doubt(*(sum(part) for part in zip(*doubts, strict=True)))


def _centred(z, unit, inputs) -> _Centred:
    n = len(z)
    x = z - z.mean(0)
    c = x.T @ x / (n - 1)
    v, largest = np.diag(c), np.abs(x).max(0)
    sums = 8 * np.sqrt(n) * unit
    dx = sums * np.abs(z).max(0) + unit * largest
    # The mean of the errors moves a variance to second order only; the rest of dx is
    # the rounding of z - mean.
    dv = sums * v + 4 * np.sqrt(v) * unit * largest + 2 * dx**2
    return _Centred(x, c, dx, dv, unit, inputs)


def _invariance_doubt(z1, z2, unit) -> _Doubt:
    size = z1.size
    value = (8 * np.sqrt(size) + 4) * unit * np.mean((z1 - z2) ** 2)
    return _Doubt(value, 2 * 2 * 4 * unit * float(np.linalg.norm(z1 - z2)) / size)


def _variance_doubt(view: _Centred, gamma, eps) -> _Doubt:
    (n, d), unit = view.x.shape, view.unit
    std = np.sqrt(np.diag(view.c) + eps)
    dstd = view.dv / (2 * std) + 2 * unit * std
    slack = dstd + 2 * unit * gamma
    near = gamma - std + dstd > 0
    value = np.mean(np.where(near, slack, 0)) + view.sums(d) * gamma
    hinge = np.where(near, 1 / (d * (n - 1) * std), 0)
    # Where rounding decides on which side of the hinge a column falls, all of its
    # gradient is in doubt; where nothing rounds, none of it is.
    doubt = np.where((np.abs(gamma - std) <= slack) & (slack > 0), 1.0, 0.0)
    size = np.abs(view.x)
    gradient = np.linalg.norm(hinge * (view.dx + 4 * unit * size))
    gradient += np.linalg.norm(hinge * (dstd / std + doubt) * size)
    return _Doubt(float(value), float(gradient))


def _rows_doubt(view: _Centred) -> _Doubt:
    """Of the n x n product, whose diagonal part is taken off the total."""
    (n, d), unit, v = view.x.shape, view.unit, np.diag(view.c)
    norm_x, norm_dx = np.linalg.norm(view.x), np.sqrt(n) * np.linalg.norm(view.dx)
    k = np.linalg.norm(view.c)
    norm_v, norm_dv = np.linalg.norm(v), np.linalg.norm(view.dv)
    rounding = view.sums(d) + 2 * view.inputs
    dk = rounding * np.trace(view.c) + (2 * norm_x + norm_dx) * norm_dx / (n - 1)
    energy = 2 * k * dk + dk**2 + view.sums(n * n) * k**2
    energy += 2 * norm_v * norm_dv + norm_dv**2 + view.sums(d) * norm_v**2
    slope = dk * (norm_x + norm_dx) + k * norm_dx
    slope += (view.sums(n) + 4 * unit + 2 * view.inputs) * k * norm_x
    slope += np.linalg.norm(view.x * view.dv)
    slope += np.linalg.norm(v * view.dx) * np.sqrt(n)
    slope += 4 * unit * np.linalg.norm(view.x * v)
    return _Doubt(float(energy / d), float(4 * slope / (d * (n - 1))))


def _columns_doubt(view: _Centred) -> _Doubt:
    """Of the d x d product, whose diagonal is left out before it is squared."""
    (n, d), unit = view.x.shape, view.unit
    norm_x, norm_dx = np.linalg.norm(view.x), np.sqrt(n) * np.linalg.norm(view.dx)
    off = np.sqrt(max(np.sum(view.c**2) - np.sum(np.diag(view.c) ** 2), 0))
    rounding = view.sums(n) + 2 * view.inputs
    dc = rounding * np.trace(view.c) + (2 * norm_x + norm_dx) * norm_dx / (n - 1)
    energy = 2 * off * dc + dc**2 + view.sums(d * d) * off**2
    slope = dc * (norm_x + norm_dx) + off * norm_dx
    slope += (view.sums(d) + 4 * unit + 2 * view.inputs) * off * norm_x
    return _Doubt(float(energy / d), float(4 * slope / (d * (n - 1))))
