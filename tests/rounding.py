"""How far rounding in float32 may take what a test compares."""

from math import prod

import jax
import numpy as np

UNIT = 2.0**-24
_SURE = 8  # standard deviations
_MAGNIFIED = 128  # far above other roundings, and small enough to be linear
_DRAWS = 4


def of_sum(terms):
    """Returns the relative error of a sum of so many products.

    The error is relative to the sum of their magnitudes and larger with negligible
    probability only: Higham and Mary, SIAM J. Sci. Comput. 41, 2019, as in parity's
    oracle.
    """
    return _SURE * np.sqrt(terms) * UNIT


def of_network(program, parameters, rows):
    """Returns how far apart two computations of a network may be, leaf by leaf.

    Backward error analysis: a layer in float32 is the exact layer with parameters that
    are off by what `of_sum` says of the terms that it adds. The condition, which
    carries that through all layers to the results, is measured: with parameters
    disturbed at random by one standard deviation, magnified.

    Args:
        program: Takes parameters and returns a tree.
        parameters: A tree of float32 arrays.
        rows: How many entries of a channel a batch norm adds.
    """
    base = program(parameters)
    others = [
        program(_disturbed(parameters, rows, np.random.default_rng(seed)))
        for seed in range(_DRAWS)
    ]

    def bound(leaf, *moved):
        deviation = np.sqrt(np.mean([(other - leaf) ** 2 for other in moved], axis=0))
        # Both sides of the comparison are rounded, and once more where they are stored.
        of_layers = 2 * _SURE * np.max(deviation) / _MAGNIFIED
        return of_layers + 4 * UNIT * np.max(np.abs(leaf))

    return jax.tree.map(bound, *map(jax.device_get, (base, *others)))


def _disturbed(parameters, rows, rng):
    def moved(leaf):
        terms = prod(leaf.shape[:-1]) if leaf.ndim > 1 else rows
        deviation = _MAGNIFIED * np.sqrt(terms) * UNIT
        factor = 1 + deviation * rng.choice([-1.0, 1.0], leaf.shape)
        return leaf * factor.astype(np.float32)

    return jax.tree.map(moved, parameters)


def assert_close(got, want, bounds):
    """Holds each leaf of a tree to the largest error that its bound allows."""

    def check(path, one, other, bound):
        error = np.max(np.abs(np.asarray(one) - np.asarray(other)))
        assert error <= bound, (jax.tree_util.keystr(path), error, bound)

    jax.tree_util.tree_map_with_path(check, got, want, bounds)
