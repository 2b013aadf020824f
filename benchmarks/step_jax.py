"""The training step of the mnist recipe in JAX, without and with its augmentation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.sizes import WEIGHTS
from benchmarks.timing import Call
from vicreg_jax import VICRegLoss
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.model import build as build_model
from vicreg_jax.pretrain.model import optimizer as make_optimizer
from vicreg_jax.pretrain.model import schedule

_EPOCH = 31  # steps, on which no time depends


def mean_of_squares(z1, z2):
    """What stands in for the loss, to see what the rest of a step takes."""
    return jnp.mean(z1**2 + z2**2)


LOSSES: dict[str, Callable] = {
    "loss": VICRegLoss(*WEIGHTS),
    "mean of squares": mean_of_squares,
}


def build(config: Config, views: tuple[np.ndarray, np.ndarray], loss: str) -> Call:
    """Returns a step on two views that are ready made, as a call.

    Args:
        config: network and optimiser.
        views: two batches of images.
        loss: a key of `LOSSES`.
    """
    model, optimizer = _model_and_optimizer(config)
    first, second = map(jnp.asarray, views)

    @nnx.jit
    def step(model, optimizer, first, second):
        return _update(model, optimizer, LOSSES[loss], first, second)

    def call():
        value = step(model, optimizer, first, second)
        jax.block_until_ready((value, nnx.state(model)))

    return call


def build_whole(config: Config, images: np.ndarray) -> Call:
    """Returns a step that draws both views too, as a call."""
    model, optimizer = _model_and_optimizer(config)
    batch, key = jnp.asarray(images), jax.random.key(0)

    @nnx.jit
    def step(model, optimizer, images, key):
        first, second = config.views.pair(key, images)
        return _update(model, optimizer, LOSSES["loss"], first, second)

    def call():
        value = step(model, optimizer, batch, key)
        jax.block_until_ready((value, nnx.state(model)))

    return call


def _update(model, optimizer, loss, first, second):
    def objective(model):
        # Two passes, so that batch norm sees each view by itself.
        return loss(model(first), model(second))

    value, gradients = nnx.value_and_grad(objective)(model)
    optimizer.update(model, gradients)
    return value


def _model_and_optimizer(config: Config):
    model = build_model(config)
    model.train()
    tx = make_optimizer(config, schedule(config, _EPOCH))
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)
