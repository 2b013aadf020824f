"""The features of one network in JAX and of its twin in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx


def images(side=64, batch=2):
    """Float32 exactly, in float64."""
    x = np.random.default_rng(0).standard_normal((batch, 3, side, side))
    return x.astype(np.float32).astype(np.float64)


@jax.jit
def forward(graph, state, x):
    return nnx.merge(graph, state)(x)


def seen_by(ours, x, dtype):
    x = jnp.asarray(x.transpose(0, 2, 3, 1), dtype)
    return np.asarray(forward(*nnx.split(ours), x), np.float64)


def seen_by_torch(theirs, x, dtype):
    with torch.no_grad():
        return theirs.to(dtype)(torch.tensor(x, dtype=dtype)).double().numpy()
