"""This package with a fault in it, which proves that the suite can fail.

Each fault is one that implementations of VICReg have had, or one that a compiler or a
careless change could introduce. Faults of the section "values" show on a single device,
in the dtypes that they name. Those of "devices" show only where rows lie on several
devices, and those of "pretraining" and "classifiers" only in training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import vicreg_jax
from parity.cases import DTYPES
from parity.classifier_faults import CLASSIFIER_FAULTS
from parity.local_faults import LOCAL_FAULTS
from parity.ours import PACKAGE, Ours


class Fault(NamedTuple):
    """A fault, and where it must be caught.

    Attributes:
        ours: The loss or the optimizer with the fault.
        section: Section that must catch it.
        dtypes: Dtypes of the embeddings, in which it shows.
    """

    ours: Ours
    section: str
    dtypes: tuple[str, ...] = DTYPES


def _faulty(terms: Callable) -> Ours:
    """Returns the loss that is a weighted sum of faulty terms."""

    def loss(z1, z2, lambd, mu, nu=1.0, gamma=1.0, **options):
        return terms(z1, z2, gamma, **options).weighted_sum(lambd, mu, nu)

    return Ours(loss, terms)


def _biased_variance(z1, z2, gamma=1.0, *, eps=1e-4, precision="highest", **rows):
    """Divides the variances by n, by scaling the columns by sqrt(1 - 1/n)."""
    terms = vicreg_jax.vicreg_terms(z1, z2, gamma, eps=eps, precision=precision, **rows)
    shrink = (1 - 1 / len(z1)) ** 0.5
    # Scaled in the dtype of the statistics, as rounding to half precision here would be
    # a fault of its own.
    wide = [z.astype(terms.variance.dtype) * shrink for z in (z1, z2)]
    hinges = [vicreg_jax.variance(z, gamma, eps=eps, **rows) for z in wide]
    return terms._replace(variance=hinges[0] + hinges[1])


def _halved_hinge(z1, z2, gamma=1.0, **options):
    """Averages the hinge over the views instead of summing it."""
    terms = vicreg_jax.vicreg_terms(z1, z2, gamma, **options)
    return terms._replace(variance=terms.variance / 2)


def _missing_factor(z1, z2, gamma=1.0, **options):
    """Halves the gradient of the covariance: a factor of 2 instead of 4."""
    terms = vicreg_jax.vicreg_terms(z1, z2, gamma, **options)
    # The value stays right, so that only the gradients can give the fault away. The
    # faults below that drop a gradient do the same.
    half = terms.covariance / 2
    return terms._replace(covariance=half + jax.lax.stop_gradient(half))


def _wrong_eps(z1, z2, gamma=1.0, *, eps=1e-4, **options):
    """Adds a tenth of eps."""
    return vicreg_jax.vicreg_terms(z1, z2, gamma, eps=eps / 10, **options)


def _without_gradient(term, z1, z2, gamma=1.0, **options):
    """Drops the gradient of a term."""
    terms = vicreg_jax.vicreg_terms(z1, z2, gamma, **options)
    return terms._replace(**{term: jax.lax.stop_gradient(getattr(terms, term))})


def _half_the_columns(z1, z2, gamma=1.0, **options):
    """Drops the gradient of every second column."""
    seen = jnp.arange(z1.shape[1]) % 2 == 0
    z1, z2 = (jnp.where(seen, z, jax.lax.stop_gradient(z)) for z in (z1, z2))
    return vicreg_jax.vicreg_terms(z1, z2, gamma, **options)


def _cast_per_term(z1, z2, gamma=1.0, *, eps=1e-4, precision="highest", **rows):
    """Rounds the gradient of each term to the dtype of the views before adding."""
    # Each term casts its own gradient back to the dtype of the views. `vicreg_loss`
    # casts the views once, and so the sum of the gradients.
    v1, v2 = (vicreg_jax.variance(z, gamma, eps=eps, **rows) for z in (z1, z2))
    c1, c2 = (vicreg_jax.covariance(z, precision=precision, **rows) for z in (z1, z2))
    invariance = vicreg_jax.invariance(z1, z2, **rows)
    return vicreg_jax.VICRegTerms(invariance, v1 + v2, c1 + c2)


def _narrow_products(bits, z1, z2, gamma=1.0, **options):
    """Rounds the inputs of the covariance's products to a number of bits."""
    terms = vicreg_jax.vicreg_terms(z1, z2, gamma, **options)
    # `off` gives the gradient only. The value stays that of the package.
    off = _narrow_covariance(bits, z1) + _narrow_covariance(bits, z2)
    value = jax.lax.stop_gradient(terms.covariance)
    return terms._replace(covariance=value + off - jax.lax.stop_gradient(off))


def _narrow_covariance(bits, z):
    """Returns the covariance term by the d x d product of rounded rows."""
    z = z.astype(jnp.float64 if z.dtype == jnp.float64 else jnp.float32)
    n, d = z.shape
    x = z - z.mean(0)
    # The value of the products is rounded; the derivative ignores the rounding.
    rounded = jax.lax.reduce_precision(x, jnp.finfo(z.dtype).nexp, bits)
    x = x + jax.lax.stop_gradient(rounded - x)
    c = jnp.matmul(x.T, x, precision="highest") / (n - 1)
    return jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, c) ** 2) / d


def _world_size(z1, z2, *args, axis_name=None, **options):
    """Sums gradients over devices instead of averaging them."""
    loss = vicreg_jax.vicreg_loss(z1, z2, *args, axis_name=axis_name, **options)
    if axis_name is None:
        return loss
    # The value of the loss stays right, and the gradient is what a sum over devices
    # gives.
    devices = jax.lax.axis_size(axis_name)
    return devices * loss - jax.lax.stop_gradient((devices - 1) * loss)


def _missing_gather(z1, z2, *args, axis_name=None, **options):
    """Averages the losses of the devices' own rows, without a gather."""
    loss = vicreg_jax.vicreg_loss(z1, z2, *args, **options)
    if axis_name is None:
        return loss
    return jnp.asarray(jax.lax.pmean(loss, axis_name))


def _decayed_vectors(config, rate):
    """LARS with weight decay on biases and batch norms too."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        _trust_ratio(config),
        optax.trace(0.9),
        optax.scale_by_learning_rate(rate),
    )


def _rate_in_momentum(config, rate):
    """LARS with past learning rates in its momentum, as `optax.lars` has."""
    return optax.chain(
        optax.masked(optax.add_decayed_weights(config.weight_decay), _matrices),
        _trust_ratio(config),
        optax.scale_by_learning_rate(rate),
        optax.trace(0.9),
    )


def _trust_ratio(config):
    trust = optax.scale_by_trust_ratio(trust_coefficient=config.trust_coefficient)
    return optax.masked(trust, _matrices)


def _matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


# The sections on several devices call the loss alone.
_on_devices = partial(Ours, terms=vicreg_jax.vicreg_terms)

FAULTS = {
    "biased-variance": Fault(_faulty(_biased_variance), "values"),
    "halved-hinge": Fault(_faulty(_halved_hinge), "values"),
    "missing-factor": Fault(_faulty(_missing_factor), "values"),
    "wrong-eps": Fault(_faulty(_wrong_eps), "values"),
    "missing-invariance-gradient": Fault(
        _faulty(partial(_without_gradient, "invariance")), "values"
    ),
    "missing-variance-gradient": Fault(
        _faulty(partial(_without_gradient, "variance")), "values"
    ),
    "missing-covariance-gradient": Fault(
        _faulty(partial(_without_gradient, "covariance")), "values"
    ),
    "half-the-columns": Fault(_faulty(_half_the_columns), "values"),
    "cast-per-term": Fault(_faulty(_cast_per_term), "values", ("bfloat16", "float16")),
    "tf32-products": Fault(_faulty(partial(_narrow_products, 10)), "values"),
    "bfloat16-products": Fault(_faulty(partial(_narrow_products, 7)), "values"),
    "world-size": Fault(_on_devices(_world_size), "devices"),
    "missing-gather": Fault(_on_devices(_missing_gather), "devices"),
    "decayed-vectors": Fault(
        PACKAGE._replace(optimizer=_decayed_vectors), "pretraining"
    ),
    "rate-in-momentum": Fault(
        PACKAGE._replace(optimizer=_rate_in_momentum), "pretraining"
    ),
    **{
        name: Fault(PACKAGE._replace(local=loss), "local")
        for name, loss in LOCAL_FAULTS.items()
    },
    **{
        name: Fault(PACKAGE._replace(classifier=programs), "classifiers", ("float64",))
        for name, programs in CLASSIFIER_FAULTS.items()
    },
}
