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
    inputs = *nnx.split(ours), jnp.asarray(x.transpose(0, 2, 3, 1), dtype)
    options = {}
    in_kernels = sum(leaf.size for leaf in jax.tree.leaves(inputs[1]) if leaf.ndim == 4)
    # XLA's convolutions in float64 are plain loops, which take four times as long
    # without LLVM's optimizations: for a ConvNeXt-T 27 instead of 7 CPU seconds. With
    # smaller kernels compiling would take longer than they do.
    if dtype == np.float64 and in_kernels > 1.5e6:
        options["xla_backend_optimization_level"] = 1
    run = forward.lower(*inputs).compile(options)
    return np.asarray(run(*inputs), np.float64)


def seen_by_torch(theirs, x, dtype):
    with torch.no_grad():
        return theirs.to(dtype)(torch.tensor(x, dtype=dtype)).double().numpy()
