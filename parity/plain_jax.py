"""The loss in plain JAX: the paper's equations as they stand, for autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def jax_terms(z1, z2, gamma=1.0, eps=1e-4):
    """The three terms by the d x d covariance, for autodiff."""
    variance = covariance = 0.0
    for z in (z1, z2):
        n, d = z.shape
        x = z - z.mean(0)
        c = jnp.matmul(x.T, x, precision="highest") / (n - 1)
        std = jnp.sqrt(jnp.diag(c) + eps)
        variance += jnp.mean(jax.nn.relu(gamma - std))
        covariance += jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, c) ** 2) / d
    return jnp.mean((z1 - z2) ** 2), variance, covariance


def jax_loss(z1, z2, lambd=25.0, mu=25.0, nu=1.0, gamma=1.0, eps=1e-4):
    """The loss by the d x d covariance, for autodiff."""
    s, v, c = jax_terms(z1, z2, gamma, eps)
    return lambd * s + mu * v + nu * c
