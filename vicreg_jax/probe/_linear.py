"""A linear classifier, and the statistics of the features that it is fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import Precision

from vicreg_jax.probe._inputs import wide

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int32

    Features = Float[Array, "rows width"]


class Linear(NamedTuple):
    """A linear classifier of centered and scaled features.

    Attributes:
        mean: Mean of each column of the training features, shape ``(width,)``.
        scale: What each centered column is divided by, shape ``(width,)``.
        weights: Shape ``(width, classes)``.
        bias: Shape ``(classes,)``; very negative for a class without samples.
    """

    mean: Float[Array, " width"]
    scale: Float[Array, " width"]
    weights: Float[Array, "width classes"]
    bias: Float[Array, " classes"]

    def scores(self, features: Features) -> Float[Array, "rows classes"]:
        """Returns the score of each class, in float32 or float64.

        Args:
            features: Shape ``(rows, width)``, of any float dtype.
        """
        return _scores(self, jnp.asarray(features))

    def classes(self, features: Features) -> Int32[Array, " rows"]:
        """Returns the class with the highest score.

        Args:
            features: Shape ``(rows, width)``, of any float dtype.
        """
        return jnp.argmax(self.scores(features), axis=1).astype(jnp.int32)


@jax.jit
def _scores(linear: Linear, features: Features) -> Float[Array, "rows classes"]:
    # Mean and scale are not folded into weights and bias: features far from zero would
    # make two large terms, whose difference float32 rounds.
    inputs = (wide(features) - linear.mean) / linear.scale
    return matmul(inputs, linear.weights) + linear.bias


def matmul(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """Returns the product at highest precision; TPUs would round to bfloat16."""
    return jnp.matmul(a, b, precision=Precision.HIGHEST)


def centered(
    features: Features, rows: Bool[Array, " rows"]
) -> tuple[Features, Float[Array, " width"]]:
    """Returns centered features in float32 or float64, and the mean of the columns.

    Args:
        features: Shape ``(rows, width)``.
        rows: Which rows to include, shape ``(rows,)``. The others become zero.
    """
    x = jnp.where(rows[:, None], wide(features), 0)
    count = counted(rows).astype(x.dtype)
    mean = column_sums(x) / count
    # The mean of values far from zero is rounded. What the rounding left of it in the
    # columns is subtracted here.
    x = jnp.where(rows[:, None], x - mean, 0)
    rest = column_sums(x) / count
    return jnp.where(rows[:, None], x - rest, 0), mean + rest


def counted(rows: Bool[Array, " rows"]) -> Int32[Array, ""]:
    """Returns how many rows there are, int32. Adding ones in float32 stops at 2^24."""
    return jnp.sum(rows, dtype=jnp.int32)


def column_sums(x: Features) -> Float[Array, " width"]:
    """Returns the sums of the columns, by a product, which adds up in blocks.

    A plain sum over many rows in float32 adds one by one on CPUs, and loses digits.
    """
    return matmul(jnp.ones((1, x.shape[0]), x.dtype), x)[0]
