"""Ridge regression to the classes in closed form, from one Gram matrix."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve

from vicreg_jax.probe import _inputs
from vicreg_jax.probe._linear import Linear, centered, column_sums, matmul
from vicreg_jax.probe.logistic import class_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jax.sharding import Mesh
    from jaxtyping import Array, Bool, Float, Integer

    from vicreg_jax.probe._inputs import Rows

LAMBDAS = tuple(10.0**power for power in range(-4, 3))
_HELD_OUT = 0.2


class Ridge(NamedTuple):
    """A classifier, and how its penalty was chosen.

    Attributes:
        linear: The classifier, fitted to all rows with the best penalty.
        penalty: The chosen one of `lambdas`, shape ``()``.
        errors: Mean squared error on the held-out rows by lambda, shape ``(lambdas,)``.
    """

    linear: Linear
    penalty: Float[Array, ""]
    errors: Float[Array, " lambdas"]


class _Moments(NamedTuple):
    """Sums over some rows of features x and targets y.

    Attributes:
        rows: Their number.
        x: The sum of the features, shape ``(width,)``.
        y: The sum of the targets, shape ``(classes,)``.
        xx: The Gram matrix, shape ``(width, width)``.
        xy: The products with the targets, shape ``(width, classes)``.
    """

    rows: Float[Array, ""]
    x: Float[Array, " width"]
    y: Float[Array, " classes"]
    xx: Float[Array, "width width"]
    xy: Float[Array, "width classes"]


def fit(
    features: Float[Array | np.ndarray, "rows width"],
    labels: Integer[Array | np.ndarray, " rows"],
    *,
    classes: int | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    held_out: Bool[Array | np.ndarray, " rows"] | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> Ridge:
    """Returns the ridge regression of one-hot classes on centered features.

    ``W = (X^T X + lambda t I)^-1 X^T Y``, where ``t`` is the mean eigenvalue of
    ``X^T X``, so that a lambda means the same for every number and scale of features
    (Hoerl and Kennard, Technometrics 12, 1970). One eigendecomposition gives the
    solutions for all lambdas. The one with the smallest squared error on held-out rows
    is used on all rows. Where ``X^T X`` is 0, ``t`` is 1: features that are all the
    same predict the most frequent class. Each device holds its rows, a float32 copy of
    them, and a few matrices of width by width; the Gram matrices are added up over the
    devices.

    Args:
        features: Shape ``(rows, width)``, of any float dtype. Statistics are in
            float32, or in float64 for features in float64.
        labels: The class of each row, shape ``(rows,)``, from 0. Rows with -1 are
            ignored.
        classes: Number of classes. None: one more than the largest label.
        lambdas: Penalties to choose from, as fractions of the mean eigenvalue.
        held_out: Which rows to choose lambda on, shape ``(rows,)``. None: a fifth of
            them, drawn class by class where every class has two rows.
        seed: Seed for drawing them.
        mesh: Devices to spread the rows over. None: those of `features` if it is
            sharded, otherwise JAX's default device.

    Raises:
        TypeError: If the features are not floating-point, or the labels not integers.
        ValueError: If a shape does not fit, a value is not finite, a lambda is not
            positive, a label is out of range, or no row is held out or left.
    """
    _inputs.check("features", features, labels)
    classes = class_count(labels, classes)
    if not lambdas or not all(value > 0 for value in lambdas):
        raise ValueError(
            f"`lambdas` must be one or more numbers above 0, got {lambdas}"
        )
    labels = np.asarray(labels)
    drawn = _draw(labels, seed) if held_out is None else np.asarray(held_out)
    used = labels != _inputs.NO_LABEL
    if not (drawn & used).any() or not (~drawn & used).any():
        raise ValueError(
            "`held_out` must hold out some of the labeled rows, not all, got "
            f"{(drawn & used).sum()} of {used.sum()}"
        )
    mesh = _inputs.mesh_of(features, mesh)
    rows = _inputs.labeled(features, labels, mesh)
    # Padded and spread as the rows are. Only the labels are used.
    chosen = _inputs.labeled(features[:, :1], drawn, mesh).labels == 1
    sums = moments(rows, chosen, classes=classes)
    return _solve(*sums, jnp.asarray(lambdas))


def _draw(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns which labeled rows are held out to choose lambda on."""
    from sklearn.model_selection import train_test_split

    rows = np.flatnonzero(labels != _inputs.NO_LABEL)
    counts = np.unique(labels[rows], return_counts=True)[1]
    # scikit-learn draws class by class only if each class has two rows and a place.
    enough = counts.min() >= 2 and len(rows) * _HELD_OUT >= len(counts)
    _, chosen = train_test_split(
        rows,
        test_size=_HELD_OUT,
        stratify=labels[rows] if enough else None,
        random_state=seed,
    )
    return np.isin(np.arange(len(labels)), chosen)


@partial(jax.jit, static_argnames="classes")
def moments(
    rows: Rows, held_out: Bool[Array, " rows"], *, classes: int
) -> tuple[Float[Array, " width"], _Moments, _Moments]:
    """Returns the mean of the features, and the sums over both parts of the rows.

    Args:
        rows: Features and labels on the devices.
        held_out: Which rows belong to the second part, shape ``(rows,)``.
        classes: Number of classes.
    """
    # By the mean of all rows. What `_centered` subtracts later is then small, and
    # cancels little.
    x, mean = centered(rows.features, rows.labels != _inputs.NO_LABEL)
    # Rows without a label have no class, and zeros for features.
    y = jax.nn.one_hot(rows.labels, classes, dtype=x.dtype)
    return mean, _moments(x, y, ~held_out), _moments(x, y, held_out)


@jax.jit
def _solve(mean, rest: _Moments, held: _Moments, lambdas) -> Ridge:
    lambdas = lambdas.astype(mean.dtype)
    errors = _errors(rest, held, lambdas)
    best = lambdas[jnp.argmin(errors)]
    # Sums over both parts add up, so the rows are not read again for the last fit.
    everything = _Moments(*(a + b for a, b in zip(rest, held, strict=True)))
    linear = Linear(mean, jnp.ones_like(mean), *_solution(everything, best))
    return Ridge(linear, best, errors)


def _moments(x, y, rows) -> _Moments:
    x = jnp.where(rows[:, None], x, 0)
    y = jnp.where(rows[:, None], y, 0)
    classes = column_sums(y)
    # Targets are one-hot, or zeros without a label, so this counts labeled rows.
    count = jnp.sum(classes)
    return _Moments(count, column_sums(x), classes, matmul(x.T, x), matmul(x.T, y))


def _centered(sums: _Moments):
    """Returns means, and centered products: ``x, y, X^T X, X^T Y``."""
    x, y = sums.x / sums.rows, sums.y / sums.rows
    gram = sums.xx - sums.rows * jnp.outer(x, x)
    return x, y, gram, sums.xy - sums.rows * jnp.outer(x, y)


def _solution(sums: _Moments, penalty):
    """Returns weights and biases for one lambda."""
    x, y, gram, cross = _centered(sums)
    width = len(gram)
    # The trace over the width is the mean eigenvalue.
    shift = penalty * _unit(jnp.trace(gram) / width)
    # For one lambda a Cholesky factorization costs less than the eigenvectors, and
    # those of `_solutions` are of another Gram matrix.
    factor = cho_factor(gram + shift * jnp.eye(width, dtype=gram.dtype))
    weights = cho_solve(factor, cross)
    return weights, y - matmul(x[None], weights)[0]


def _solutions(sums: _Moments, lambdas):
    """Returns weights and biases by lambda, from one eigendecomposition."""
    x, y, gram, cross = _centered(sums)
    values, vectors = jnp.linalg.eigh(gram)
    # Rounding makes eigenvalues that are 0 slightly negative.
    values = jnp.maximum(values, 0)
    unit = _unit(jnp.mean(values))
    rotated = matmul(vectors.T, cross)

    def solution(penalty):
        shrunk = values + penalty * unit
        weights = matmul(vectors, rotated / shrunk[:, None])
        return weights, y - matmul(x[None], weights)[0]

    return jax.lax.map(solution, lambdas)


def _unit(mean):
    """Returns what lambdas are fractions of, for a mean eigenvalue."""
    # Features that are all the same have no eigenvalue above 0. Any penalty then gives
    # weights of 0, and the biases predict the most frequent class; 0 would give 0 / 0.
    return jnp.where(mean > 0, mean, 1)


def _errors(fitted: _Moments, held: _Moments, lambdas):
    """Returns the mean squared error on the held-out rows, by lambda.

    It follows from the moments, without a second pass over the rows:
    ``sum |y - W^T x - b|^2``, multiplied out.
    """

    def error(solution):
        weights, bias = solution
        # The terms cancel in part, which costs float32 some digits. Lambdas that differ
        # by a factor of 10 need few.
        quadratic = jnp.sum(weights * matmul(held.xx, weights))
        mixed = jnp.sum(weights * held.xy) + jnp.sum(bias * held.y)
        shifts = jnp.sum(matmul(held.x[None], weights)[0] * bias)
        # Targets are 0 or 1, so each is its own square.
        constant = jnp.sum(held.y) + held.rows * jnp.sum(bias**2)
        return (quadratic - 2 * mixed + 2 * shifts + constant) / held.rows

    return jax.lax.map(error, _solutions(fitted, lambdas))
