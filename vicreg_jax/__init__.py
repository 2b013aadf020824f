"""VICReg (arXiv:2105.04906) for JAX: the exact loss, fast.

The loss and its parts:
    vicreg_loss: the weighted sum, for two batches of embeddings.
    vicreg_terms: the three unweighted terms, to log.
    VICRegLoss: the loss configured once and called often.
    invariance, variance, covariance: the paper's terms, one by one.

Around it:
    diagnostics: is this value normal? Collapse, effective rank, covariance floor.
    conventions: the weights of other implementations, by name.
"""

from vicreg_jax import conventions as conventions
from vicreg_jax._diagnostics import Diagnostics as Diagnostics
from vicreg_jax._diagnostics import diagnostics as diagnostics
from vicreg_jax._loss import VICRegLoss as VICRegLoss
from vicreg_jax._loss import VICRegTerms as VICRegTerms
from vicreg_jax._loss import vicreg_loss as vicreg_loss
from vicreg_jax._loss import vicreg_terms as vicreg_terms
from vicreg_jax._terms import covariance as covariance
from vicreg_jax._terms import invariance as invariance
from vicreg_jax._terms import variance as variance

__all__ = [
    "Diagnostics",
    "VICRegLoss",
    "VICRegTerms",
    "conventions",
    "covariance",
    "diagnostics",
    "invariance",
    "variance",
    "vicreg_loss",
    "vicreg_terms",
]
