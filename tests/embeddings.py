"""Embeddings to compute losses of."""

import numpy as np


def draw(n, d, seed=0, offset=0.3, spread=(0.3, 2.0)):
    """Two related views, columns on both sides of the hinge."""
    rng = np.random.default_rng([seed, n, d])
    shared = rng.standard_normal((n, d))
    scale = rng.uniform(*spread, d)
    return tuple(
        scale * (shared + 0.5 * rng.standard_normal((n, d))) + offset for _ in range(2)
    )
