"""Multinomial logistic regression with an L2 penalty, by L-BFGS on the devices."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import Precision

from vicreg_jax.probe import _inputs
from vicreg_jax.probe._linear import Linear, centered, column_sums, counted

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from jaxtyping import Array, Float, Integer

    from vicreg_jax.probe._inputs import Rows


class _Parameters(NamedTuple):
    weights: Float[Array, "width classes"]
    bias: Float[Array, " classes"]


def fit(
    features: Float[Array | np.ndarray, "rows width"],
    labels: Integer[Array | np.ndarray, " rows"],
    *,
    classes: int | None = None,
    l2: float = 50.0,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
    mesh: Mesh | None = None,
) -> Linear:
    """Returns the classifier with the smallest penalized cross entropy.

    It minimizes ``sum_i CE(W^T x_i + b, y_i) + l2 / 2 ||W||^2`` over features that are
    standardized to mean 0 and standard deviation 1, as scikit-learn's
    `LogisticRegression` does with ``C = 1 / l2``. The optimum is the same, also with
    two classes, for which scikit-learn has one weight vector instead of two. The
    penalty is beside the sum, not the mean, so that fewer samples are regularized more
    strongly. The optimizer is `optax.lbfgs` (Liu and Nocedal, Mathematical Programming
    45, 1989) with its zoom line search.

    Each device holds its rows, a float32 copy of them, and a few matrices of its rows
    by the classes.

    Args:
        features: Shape ``(rows, width)``, of any float dtype. Statistics and products
            are in float32, or in float64 for features in float64.
        labels: The class of each row, shape ``(rows,)``, from 0. Rows with -1 are
            ignored.
        classes: Number of classes. None: one more than the largest label. A class
            without samples is never chosen.
        l2: Weight of the penalty.
        tolerance: Relative tolerance of the loss. The optimizer stops where the norm
            ``g`` of the gradient of the loss has ``g^2 / (2 l2) <= tolerance * loss``,
            which bounds the distance to the optimum over the weights, since the penalty
            is strongly convex.
        max_iterations: Most steps of the optimizer.
        mesh: Devices to spread the rows over. None: those of `features` if it is
            sharded, otherwise JAX's default device.

    Raises:
        TypeError: If the features are not floating-point, or the labels not integers.
        ValueError: If a shape does not fit, a value is not finite, `l2` is not
            positive, or a label is out of range.
    """
    _inputs.check("features", features, labels)
    classes = class_count(labels, classes)
    if not l2 > 0:
        raise ValueError(f"`l2` must be above 0, got {l2}")
    # Softmax has two opposite vectors for two classes. Together they have half the
    # squared norm of their difference, which is the one vector of the binary case.
    l2 = 2 * l2 if classes == 2 else l2
    mesh = _inputs.mesh_of(features, mesh)
    rows = _inputs.labeled(features, labels, mesh)
    return minimize(
        rows,
        l2,
        tolerance,
        classes=classes,
        max_iterations=max_iterations,
        parts=1 if mesh else 2,
    )


def class_count(labels: Integer[Array | np.ndarray, " rows"], classes: int | None):
    """Returns the number of classes of labels from -1.

    Raises:
        ValueError: If a label is out of range, or none is known.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high < 0 or (classes is not None and high >= classes):
        most = "" if classes is None else f" to {classes - 1}"
        raise ValueError(
            f"`labels` must be from 0{most}, or -1 for rows to ignore, "
            f"got {low} to {high}"
        )
    return high + 1 if classes is None else classes


@partial(jax.jit, static_argnames=("classes", "max_iterations", "parts"))
def minimize(
    rows: Rows,
    l2: float,
    tolerance: float,
    *,
    classes: int,
    max_iterations: int,
    parts: int = 1,
) -> Linear:
    """Returns the classifier of `fit`, for rows that are on the devices already.

    The rows are multiplied in a number of equal parts. On one CPU two are several times
    as fast as one, because jaxlib 0.10.2 is slow at the gradient's product over all
    rows. Rows that are spread over devices would have to move for more than one part.
    """
    valid = rows.labels != _inputs.NO_LABEL
    x, mean = centered(rows.features, valid)
    count = counted(valid).astype(x.dtype)
    deviation = jnp.sqrt(column_sums(x * x) / count)
    # A constant column has rounding errors for its deviation.
    noise = 10 * jnp.finfo(x.dtype).eps * jnp.abs(mean)
    scale = jnp.where(deviation > noise, deviation, 1)
    # Relative to the mean over the rows, whose size does not depend on their number.
    share = jnp.asarray(l2, x.dtype) / count
    x = (x / scale).reshape(parts, -1, x.shape[1])
    loss = partial(_loss, x, rows.labels, count, share)
    zeros = _Parameters(
        jnp.zeros((x.shape[2], classes), x.dtype), jnp.zeros(classes, x.dtype)
    )
    # The bound of `fit` with loss, gradient and penalty divided by the number of rows.
    found = _lbfgs(loss, zeros, 2 * share * tolerance, max_iterations)
    bias = jnp.where(present(rows.labels, classes), found.bias, _never(x.dtype))
    return Linear(mean, scale, found.weights, bias)


def present(labels: Integer[Array, " rows"], classes: int):
    """Returns which classes have samples, shape ``(classes,)``, bool."""
    # Elsewhere in JAX, a label of -1 would mean the last class.
    counts = jnp.zeros(classes, bool)
    return counts.at[labels].set(True, mode="drop", wrap_negative_indices=False)


def _never(dtype):
    """Returns the score of a class without samples, finite so that 0 times it is 0."""
    return jnp.finfo(dtype).min / 4


def _loss(x, labels, count, share, parameters: _Parameters):
    """Returns the mean cross entropy plus the penalty."""
    valid = labels != _inputs.NO_LABEL
    classes = parameters.bias.shape[0]
    # Weights for each part: without a batch axis it would be one product again.
    weights = jnp.broadcast_to(parameters.weights.T, (len(x), classes, x.shape[2]))
    products = jnp.einsum("prw,pcw->prc", x, weights, precision=Precision.HIGHEST)
    logits = products.reshape(-1, classes) + parameters.bias
    logits = jnp.where(present(labels, classes), logits, _never(x.dtype))
    # Rows without a label take class 0 here and are left out below.
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.where(valid, labels, 0)
    )
    # In two steps: one float32 sum over all rows would be too coarse for the search.
    sums = jnp.sum(jnp.where(valid, losses, 0).reshape(-1, _inputs.MULTIPLE), axis=1)
    return jnp.sum(sums) / count + share / 2 * jnp.sum(parameters.weights**2)


def _lbfgs(loss, parameters, bound, max_iterations: int) -> _Parameters:
    """Returns parameters where ``|gradient|^2 <= bound * loss``, if it gets there."""
    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def unfinished(carry):
        _, state, iteration, moved = carry
        # The line search has left the value and gradient at the current parameters.
        value, gradient = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
        squared = optax.tree.norm(gradient, squared=True)
        # The first state has an infinite value and no gradient, which is no optimum.
        enough = (iteration > 0) & (squared <= bound * value)
        return moved & ~enough & (iteration < max_iterations)

    def step(carry):
        parameters, state, iteration, _ = carry
        value, gradient = value_and_gradient(parameters, state=state)
        updates, state = optimizer.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=loss
        )
        new = jax.tree.map(jnp.add, parameters, updates)
        # Where rounding hides every descent, the line search stays where it is.
        moved = optax.tree.norm(optax.tree.sub(new, parameters)) > 0
        return new, state, iteration + 1, moved

    start = parameters, optimizer.init(parameters), 0, True
    return jax.lax.while_loop(unfinished, step, start)[0]
