"""Our side of the training comparison: the package's expander and loss, and Optax."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import optax
from flax import nnx

from parity.oracle import WEIGHTS
from parity.ours import Ours, enabled
from parity.training_torch import MOMENTUM, TRUST, WEIGHT_DECAY, Run
from vicreg_jax.nn import Expander

# Where PyTorch's Sequential keeps what our expander has by name.
_LINEAR = {"linear1": "0", "linear2": "3", "linear3": "6"}
_NORM = {"norm1": "1", "norm2": "4"}


def _lars(rate):
    """LARS from Optax's parts, in the order of the official code."""
    vectors_not = partial(jax.tree.map, lambda p: p.ndim > 1)
    trust = optax.scale_by_trust_ratio(trust_coefficient=TRUST)
    return optax.chain(
        optax.masked(optax.add_decayed_weights(WEIGHT_DECAY), vectors_not),
        optax.masked(trust, vectors_not),
        optax.trace(MOMENTUM),
        optax.scale_by_learning_rate(rate),
    )


# Optax's SGD keeps the learning rate outside the momentum, as PyTorch's does.
OPTIMIZERS = {
    "sgd": lambda rate: optax.sgd(rate, momentum=MOMENTUM),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=WEIGHT_DECAY),
    "lars": _lars,
}


def train(
    ours: Ours,
    weights: dict[str, np.ndarray],
    batches: np.ndarray,
    optimizer: str,
    rates: np.ndarray,
    dtype: str,
) -> Run:
    """Trains our expander from PyTorch's weights; see `training_torch.train`."""
    with enabled(dtype):
        schedule = jax.numpy.asarray(rates, dtype)
        steps = OPTIMIZERS[optimizer](lambda step: schedule[step])
        graph, state, rest = nnx.split(_expander(weights, dtype), nnx.Param, ...)
        step = partial(_step, ours, graph, steps)
        carry = (state, rest, steps.init(state))
        views = jax.numpy.asarray(batches, dtype)
        (state, rest, _), losses = jax.jit(partial(jax.lax.scan, step))(carry, views)
        model = nnx.merge(graph, state, rest)
        updates = batches.shape[0] * batches.shape[1]
        return Run(
            _parameters(model),
            _statistics(model, updates, batches.shape[2]),
            np.asarray(losses, np.float64),
        )


def _step(ours, graph, steps, carry, views):
    state, rest, memory = carry

    def loss(state):
        model = nnx.merge(graph, state, rest, copy=True)
        value = ours.loss(model(views[0]), model(views[1]), *WEIGHTS)
        return value, nnx.split(model, nnx.Param, ...)[2]

    (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(state)
    updates, memory = steps.update(gradients, memory, state)
    return (optax.apply_updates(state, updates), rest, memory), value


def _expander(weights: dict[str, np.ndarray], dtype: str) -> Expander:
    width, inputs = weights["0.weight"].shape
    graph, state = nnx.split(Expander(inputs, width, rngs=nnx.Rngs(0)))
    model = nnx.merge(graph, jax.tree.map(lambda leaf: _as(leaf, dtype), state))
    for name, place in _LINEAR.items():
        linear = getattr(model, name)
        linear.kernel[...] = weights[f"{place}.weight"].T.astype(dtype)
        if linear.bias is not None:
            linear.bias[...] = weights[f"{place}.bias"].astype(dtype)
    return model


def _as(leaf, dtype):
    floating = jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
    return leaf.astype(dtype) if floating else leaf


def _parameters(model: Expander) -> dict[str, np.ndarray]:
    found = {}
    for name, place in _LINEAR.items():
        linear = getattr(model, name)
        found[f"{place}.weight"] = np.asarray(linear.kernel[...], np.float64).T
        if linear.bias is not None:
            found[f"{place}.bias"] = np.asarray(linear.bias[...], np.float64)
    for name, place in _NORM.items():
        norm = getattr(model, name)
        found[f"{place}.weight"] = np.asarray(norm.scale[...], np.float64)
        found[f"{place}.bias"] = np.asarray(norm.bias[...], np.float64)
    return found


def _statistics(model: Expander, updates: int, rows: int) -> dict[str, np.ndarray]:
    """Returns the running statistics as PyTorch defines them.

    Its running variance is of the unbiased variances, Flax's of the biased ones; both
    start from 1, of which 0.9^updates is left.
    """
    found, left = {}, 0.9**updates
    for name, place in _NORM.items():
        norm = getattr(model, name)
        var = np.asarray(norm.var[...], np.float64)
        found[f"{place}.running_mean"] = np.asarray(norm.mean[...], np.float64)
        found[f"{place}.running_var"] = left + (var - left) * rows / (rows - 1)
    return found
