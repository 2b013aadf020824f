"""This package's loss, as the suite runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import jax
import numpy as np

import vicreg_jax
from parity.cases import Case
from parity.oracle import Result
from vicreg_jax.pretrain.classifier import Classifier


class Ours(NamedTuple):
    """What is tested: `vicreg_jax`, or a variant with a fault.

    Attributes:
        loss: Called like `vicreg_jax.vicreg_loss`.
        terms: Called like `vicreg_jax.vicreg_terms`.
        optimizer: Called like `vicreg_jax.pretrain.network.optimizer`. None: that one.
        local: Called like `vicreg_jax.local.local_loss`.
        classifier: The programs of the evaluation protocols.
    """

    loss: Callable
    terms: Callable
    optimizer: Callable | None = None
    local: Callable = vicreg_jax.local.local_loss
    classifier: type[Classifier] = Classifier


PACKAGE = Ours(vicreg_jax.vicreg_loss, vicreg_jax.vicreg_terms)


def enabled(dtype: str):
    """Returns a context in which JAX has this dtype. Nothing else changes."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


def rounded(z, dtype: str) -> np.ndarray:
    """Returns `z` rounded to a dtype, in float64. Both frameworks get these numbers."""
    # NumPy alone does not know the name bfloat16.
    return np.asarray(z).astype(jax.numpy.dtype(dtype)).astype(np.float64)


def outcome(ours: Ours, case: Case, views, precision: str | None = "highest") -> Result:
    """Returns terms, total and gradients of a case by our loss.

    Args:
        ours: The loss.
        case: Gives dtype, convention, gamma and eps.
        views: Both, as returned by `rounded`.
        precision: Precision of the matrix products. None: JAX's default.
    """
    with enabled(case.dtype):
        # Exact, as the views are rounded to this dtype already.
        arrays = [jax.numpy.asarray(z, case.dtype) for z in views]
        terms, total, gradients = _program(ours, precision)(
            *arrays, our_weights(case), case.gamma, case.eps
        )
        invariance, variance, covariance = map(float, terms)
        dz1, dz2 = map(wide, gradients)
        return Result(invariance, variance, covariance, float(total), dz1, dz2)


def our_weights(case: Case) -> tuple[float, float, float]:
    """Returns the reference's weights in the convention of this package."""
    if case.reference == "torch":
        return case.weights
    loss = getattr(vicreg_jax.conventions, case.reference)(*case.weights)
    return loss.lambd, loss.mu, loss.nu


# Weights, gamma and eps are arguments of the program, so that cases which differ by
# these alone share one compilation.
@cache
def _program(ours: Ours, precision: str | None):
    def everything(z1, z2, weights, gamma, eps):
        def total(z1, z2):
            return ours.loss(z1, z2, *weights, gamma, eps=eps, precision=precision)

        terms = ours.terms(z1, z2, gamma, eps=eps, precision=precision)
        return terms, *jax.value_and_grad(total, argnums=(0, 1))(z1, z2)

    return jax.jit(everything)


def wide(array) -> np.ndarray:
    """Returns an array of any dtype, including bfloat16, in float64."""
    return np.asarray(array).astype(np.float64)
