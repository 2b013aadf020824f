"""One training step: two views, three terms, one update."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
from flax import nnx

from vicreg_jax import VICRegLoss, VICRegTerms
from vicreg_jax.augment import DigitViews

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

    from vicreg_jax.nn import VICReg


class Metrics(NamedTuple):
    """What a step reports, scalars on the device."""

    loss: Float[Array, ""]
    terms: VICRegTerms


@nnx.jit(static_argnames="views")
def train_step(
    model: VICReg,
    optimizer: nnx.Optimizer,
    loss: VICRegLoss,
    images: Float[Array, "batch height width channels"],
    key: PRNGKeyArray,
    *,
    views: DigitViews,
) -> Metrics:
    """Updates `model` and `optimizer` in place and returns what the step saw."""
    first, second = (views(k, images) for k in jax.random.split(key))

    def objective(model):
        # Two passes, so that batch norm sees each view by itself, as the paper does.
        terms = loss.terms(model(first), model(second))
        return terms.weighted_sum(loss.lambd, loss.mu, loss.nu), terms

    (value, terms), gradients = nnx.value_and_grad(objective, has_aux=True)(model)
    optimizer.update(model, gradients)
    return Metrics(value, terms)


@nnx.jit
def encode(
    model: VICReg, images: Float[Array, "batch height width channels"]
) -> Float[Array, "batch features"]:
    """Returns the frozen features of images as they are."""
    return model.encoder(images)
