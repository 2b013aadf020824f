"""The loss again, three times over, each by other means.

`torch_loss` is Algorithm 1 of arXiv:2105.04906 in PyTorch and `numpy_loss` the float64
oracle, with gradients derived by hand: both are the parity suite's. `jax_loss` is plain
JAX: the dim x dim covariance, differentiated automatically.
"""

import jax
import jax.numpy as jnp
import pytest

from parity.oracle import WEIGHTS as WEIGHTS
from parity.oracle import Bounds as Bounds
from parity.oracle import Result as Result
from parity.oracle import numpy_loss as numpy_loss
from parity.oracle import rounding_bounds as rounding_bounds


def torch_loss(z1, z2, weights=WEIGHTS, gamma=1.0, eps=1e-4) -> Result:
    """Autograd of Algorithm 1, in the dtype of the inputs; skips without PyTorch."""
    pytest.importorskip("torch")
    from parity import torch_reference

    return torch_reference.torch_loss(z1, z2, weights, gamma, eps)


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
