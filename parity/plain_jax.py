"""The loss in plain JAX: the paper's equations, differentiated automatically."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def jax_terms(z1, z2, gamma=1.0, eps=1e-4):
    """Returns the three terms by the d x d covariance."""
    variance = covariance = 0.0
    for z in (z1, z2):
        n, d = z.shape
        x = z - z.mean(0)
        c = jnp.matmul(x.T, x, precision="highest") / (n - 1)
        std = jnp.sqrt(jnp.diag(c) + eps)
        # Not `jnp.maximum`, whose gradient at the kink is 1/2 where PyTorch's is 0.
        variance += jnp.mean(jax.nn.relu(gamma - std))
        covariance += jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, c) ** 2) / d
    return jnp.mean((z1 - z2) ** 2), variance, covariance


def jax_loss(z1, z2, lambd=25.0, mu=25.0, nu=1.0, gamma=1.0, eps=1e-4):
    """Returns the loss by the d x d covariance."""
    s, v, c = jax_terms(z1, z2, gamma, eps)
    return lambd * s + mu * v + nu * c


def jax_gathered_loss(z1, z2, *weights, axis_name):
    """Returns the loss as the official code computes it on several devices.

    Every device gathers the rows of all devices and computes the d x d covariance. It
    runs inside `jax.shard_map`.
    """
    gather = partial(jax.lax.all_gather, axis_name=axis_name, tiled=True)
    loss = jax_loss(gather(z1), gather(z2), *weights)
    # The mean of equal numbers tells JAX that they are equal.
    return jax.lax.pmean(loss, axis_name)
